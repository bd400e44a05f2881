"""HTML from the package's templates; whatever a model or a user wrote is escaped."""

from __future__ import annotations

import os
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unisd.report.colours import SERIES, shades

_REPLACED = "\N{REPLACEMENT CHARACTER}"
# They reorder the text around them, so that a reader sees something else than what stands there.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def html(template: str, **values: Any) -> str:
    """The rendered template."""
    return _environment().get_template(template).render(**values)


def write_html(path: Path, text: str) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def clean(text: str) -> str:
    """The text without what cannot be shown or written: control characters and halves of surrogate pairs."""
    return "".join(_REPLACED if _is_unfit(character) else character for character in text)


def _is_unfit(character: str) -> bool:
    if character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI_CONTROLS


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unisd.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        shades={"light": shades("light"), "dark": shades("dark")},
        series={"light": SERIES["light"], "dark": SERIES["dark"]},
    )
    return environment


def _finalized(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
