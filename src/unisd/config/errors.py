"""The one error of a configuration, and the words it is written in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

MAX_OPTIONS_LISTED = 40


class ConfigError(ValueError):
    """What is wrong with a configuration: where, what was given, what is allowed, what to do."""


def unknown_option(
    key: object,
    options: Iterable[str],
    *,
    where: str,
    of: str,
    noun: str = "an option",
    others: Mapping[str, Iterable[str]] | None = None,
) -> ConfigError:
    """The error for a key that `of` does not have; `others` maps further owners to their options."""
    options = list(options)
    if not isinstance(key, str):
        return ConfigError(
            f"{where}: a key must be text, got {shown(key)}. YAML reads bare yes, no, on, off and numbers as values: "
            "put quotes around the key."
        )
    return ConfigError(
        f"{where}: {key!r} is not {noun} of {of}.{suggestion(key, options, others)} {_listed(options, noun, of)}"
    )


def suggestion(given: str, options: Iterable[str], others: Mapping[str, Iterable[str]] | None = None) -> str:
    """` Did you mean 'x'?` or ` It belongs to y.`, with a leading space; empty when nothing is near."""
    owners = [owner for owner, names in (others or {}).items() if given in names]
    if owners:
        return f" It belongs to {' or '.join(owners)}."
    nearest = difflib.get_close_matches(given, list(options), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def shown(value: object) -> str:
    """A given value as its author knows it: null, true and false as in YAML, everything else as Python writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _listed(options: list[str], noun: str, of: str) -> str:
    title = f"{noun.split(' ', 1)[-1].capitalize()}s"
    if not options:
        return f"{title}: none."
    if len(options) > MAX_OPTIONS_LISTED:
        return f"There are {len(options)} {title.lower()}: see the documentation of {of}."
    return f"{title}: {', '.join(options)}."
