"""Checks a mapping against a dataclass and builds it: the dataclass is the schema, there is no second one."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unisd.config.errors import ConfigError, shown, unknown_option

Built = TypeVar("Built")


def option_names(schema: type) -> list[str]:
    """The keys a mapping for this dataclass may have."""
    return [field.name for field in fields_of(schema)]


def fields_of(schema: type) -> list[dataclasses.Field[Any]]:
    """The fields of the dataclass that its constructor takes."""
    assert dataclasses.is_dataclass(schema)
    return [field for field in dataclasses.fields(schema) if field.init]


def as_mapping(given: object, where: str, options: Iterable[str]) -> dict[Any, Any]:
    """The section as a dict; an empty section (`rollout:` with nothing under it) is an empty dict."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where} must be a mapping of options, got {shown(given)}. Options: {', '.join(options)}.")
    return dict(given)


def check_keys(
    given: Mapping[Any, Any],
    options: Iterable[str],
    *,
    where: str,
    of: str | None = None,
    others: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Refuse the first key that is not among the options."""
    options = list(options)
    for key in given:
        if key not in options:
            raise unknown_option(key, options, where=where, of=of or where, others=others)


def build(
    schema: type[Built],
    given: object,
    where: str,
    *,
    of: str | None = None,
    names: Mapping[str, type] | None = None,
    others: Mapping[str, Iterable[str]] | None = None,
) -> Built:
    """An instance of the dataclass, every value coerced to its field's type.

    `names` gives the classes that the annotations name but their module does not import at run time.
    """
    options = option_names(schema)
    given = as_mapping(given, where, options)
    check_keys(given, options, where=where, of=of, others=others)
    for field in fields_of(schema):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required and field.name not in given:
            raise ConfigError(f"{where}.{field.name} is missing. Add it under {where}.")
    values = coerce_fields(schema, given, where, names=names)
    try:
        return schema(**values)
    except ValueError as error:
        raise ConfigError(_located(str(error), where, options)) from None


def coerce_fields(
    schema: type,
    given: Mapping[str, Any],
    where: str,
    *,
    names: Mapping[str, type] | None = None,
    replaced_hints: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values, each coerced to the annotation of its field, or to its entry in `replaced_hints`."""
    hints = typing.get_type_hints(schema, localns=dict(names or {})) | dict(replaced_hints or {})
    return {key: coerce(hints[key], value, f"{where}.{key}") for key, value in given.items()}


def coerce(hint: Any, value: object, where: str) -> Any:
    """The value as the annotation wants it: `"2e-5"`, which YAML 1.1 reads as text, becomes a number."""
    members = _members(hint)
    schemas = [member for member in members if dataclasses.is_dataclass(member) and isinstance(member, type)]
    if any(isinstance(value, schema) for schema in schemas):
        return value
    if schemas and isinstance(value, Mapping):
        return build(schemas[0], value, where)
    if any(isinstance(member, type) and issubclass(member, enum.Enum) for member in members):
        # transformers writes `SchedulerType | str` for "one of these names"; free text would switch the check off.
        members = [member for member in members if member is not str]
    plain_members = [member for member in members if member not in schemas]
    refused = ConfigError(f"{where} must be {_described(members)}, got {shown(value)}.{_hint(value, members)}")
    if not plain_members or (_holds_bool(value) and not any(_admits_bool(member) for member in plain_members)):
        raise refused
    union: Any = functools.reduce(operator.or_, plain_members)
    adapter = TypeAdapter(union, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        result = adapter.validate_python(value)
    except ValidationError:
        raise refused from None
    if isinstance(result, float) and math.isnan(result):
        raise refused
    return result.value if isinstance(result, enum.Enum) else result


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [inner for member in typing.get_args(hint) for inner in _members(member)]
    return [hint]


def _holds_bool(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_bool(item) for item in value)
    return isinstance(value, bool)


def _admits_bool(hint: Any) -> bool:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return any(isinstance(argument, bool) for argument in arguments)
    if arguments:
        return any(_admits_bool(argument) for argument in arguments)
    return hint not in (int, float, str, type(None), Ellipsis)


def _described(members: list[Any]) -> str:
    return " or ".join(dict.fromkeys(_described_one(member) for member in members))


def _described_one(hint: Any) -> str:
    simple = {int: "an integer", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if hint in simple:
        return simple[hint]
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(shown(value) if not isinstance(value, str) else value for value in arguments)}"
    if not isinstance(origin, type):
        return str(hint)
    if issubclass(origin, enum.Enum):
        return f"one of {', '.join(str(member.value) for member in origin)}"
    if issubclass(origin, list | tuple | set | frozenset):
        inner = [member for argument in arguments if argument is not Ellipsis for member in _members(argument)]
        return f"a list (each {_described(inner)})" if inner else "a list"
    if issubclass(origin, Mapping):
        return "a mapping"
    return "a mapping of options" if dataclasses.is_dataclass(origin) else origin.__name__


def _hint(value: object, members: list[Any]) -> str:
    takes_names = any(member is str or typing.get_origin(member) is Literal for member in members) or any(
        isinstance(member, type) and issubclass(member, enum.Enum) for member in members
    )
    if isinstance(value, bool) and takes_names:
        return " YAML reads bare yes, no, on and off as true and false: put the word in quotes."
    if str in members and value is not None and not isinstance(value, list | Mapping):
        return " Put it in quotes to make it text."
    return ""


def _located(message: str, where: str, options: list[str]) -> str:
    # A __post_init__ names its own field, at times with its own name in front; the place in the file is ours to add.
    if message.startswith((f"{where}.", f"{where}:")):
        return message
    return f"{where}.{message}" if message.split(" ", 1)[0].rstrip(":") in options else f"{where}: {message}"
