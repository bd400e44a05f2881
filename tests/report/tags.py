"""A page as its tags and its text, for what must and must not be in it."""

from __future__ import annotations

from html.parser import HTMLParser

CALLING = ("src", "srcset", "action", "data", "poster")
"""Attributes that make a browser ask for something."""


class Tags(HTMLParser):
    """The names of the tags, the ids, the text outside of style sheets, and every attribute that would act or call."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.ids: list[str] = []
        self.text = ""
        self.acting: list[str] = []
        self._is_style = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self._is_style = tag == "style"
        self.ids += [value or "" for name, value in attrs if name == "id"]
        for name, value in attrs:
            is_link = name.endswith("href") and not (value or "").startswith(("#", "data:,"))
            if name.startswith("on") or name in CALLING or is_link:
                self.acting.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        self._is_style = False

    def handle_data(self, data: str) -> None:
        if not self._is_style:
            self.text += data
