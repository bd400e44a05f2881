"""The YAML file as a mapping: strict reading, and `a.b=c` overrides laid over it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unisd.config.errors import ConfigError, shown

Overrides = Mapping[str, Any] | Sequence[str]
"""`{"training.learning_rate": 1e-5}`, or `["training.learning_rate=1e-5"]` with values written as in YAML."""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, anchors, aliases and merges: a reader sees the whole run, each value once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first_line: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in first_line:
                problem = f"the key {shown(key)} was given already in line {first_line[key]}; keep one of the two"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            first_line[key] = line
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or (isinstance(event, yaml.NodeEvent) and event.anchor):
            problem = f"anchors and aliases ({event.anchor!r}) are not taken; write the value out"
            raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def read_document(path: str | Path) -> dict[Any, Any]:
    """The file's sections, unchecked."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file.{_yaml_files_near(path)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    document = _parse(text, str(path))
    if not isinstance(document, dict):
        given = "nothing" if document is None else shown(document)
        raise ConfigError(f"{path} must hold sections such as model, data and training, got {given}.")
    return document


def with_overrides(document: Mapping[Any, Any], overrides: Overrides) -> dict[Any, Any]:
    """The document with values set by dotted path; `components.0.ceiling` goes into a list by index."""
    result = _copied(document)
    for dotted, value in _pairs(overrides):
        _set(result, dotted, value)
    return result


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        context = f" {error.context}" if error.context else ""
        raise ConfigError(f"{source}{place}: not readable as YAML: {error.problem}{context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not readable as YAML: {' '.join(str(error).split())}.") from None


def _pairs(overrides: Overrides) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(f"override {override!r} must be key=value, such as training.learning_rate=1e-5.")
        pairs.append((dotted.strip(), _parse(value, f"override {override!r}")))
    return pairs


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _set(document: dict[Any, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    inner: Any = document
    for position, name in enumerate(parents):
        inner = _step(inner, name, dotted, at=".".join(parents[:position]))
    at = ".".join(parents)
    if isinstance(inner, list):
        inner[_index(inner, last, dotted, at)] = value
    elif isinstance(inner, dict):
        inner[last] = value
    else:
        raise _not_a_mapping(dotted, at, inner)


def _step(inner: Any, name: str, dotted: str, *, at: str) -> Any:
    if isinstance(inner, list):
        position = _index(inner, name, dotted, at)
        return inner[position]
    if not isinstance(inner, dict):
        raise _not_a_mapping(dotted, at, inner)
    if inner.get(name) is None:
        inner[name] = {}
    return inner[name]


def _index(items: list[Any], name: str, dotted: str, at: str) -> int:
    if name.isdecimal() and int(name) < len(items):
        return int(name)
    allowed = f"0 to {len(items) - 1}" if items else "none, the list is empty"
    raise ConfigError(f"override {dotted!r}: {name!r} is not an index into {at}. Allowed: {allowed}.")


def _not_a_mapping(dotted: str, at: str, inner: object) -> ConfigError:
    return ConfigError(f"override {dotted!r}: {at} is {shown(inner)}, which has no keys. Set {at} itself.")


def _yaml_files_near(path: Path) -> str:
    folder = path.parent
    names = sorted(file.name for file in folder.glob("*.y*ml")) if folder.is_dir() else []
    if not names:
        return " `unisd init cmd` writes one to start from."
    return f" In {folder}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}."
