"""Values between the judge and the worker: JSON frames on pipes, read into built-in types only, never unpickled."""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import decimal
import fractions
import json
import os
import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one message; larger arguments or results fail."""
MAX_DEPTH = 100
"""How deep containers may nest."""
_LARGEST_JSON_INT = 2**53

Tree = Any
"""What JSON holds: None, bool, int, float, str, or `[tag, payload]` for every other type."""
Recurse = Callable[[Any], Any]


class WireError(Exception):
    """A value that cannot cross, or a message that is not one."""


class ClosedError(BaseException):
    """The other side has gone. Not an Exception, so that a test which expects one does not catch it."""


class Channel:
    """Length-prefixed JSON messages over two pipe ends."""

    def __init__(self, read_descriptor: int, write_descriptor: int):
        self._read_descriptor = read_descriptor
        self._write_descriptor = write_descriptor

    def send(self, message: Tree) -> None:
        """Write one message. Raises WireError if it is too long or too deep, ClosedError if nobody reads."""
        try:
            payload = json.dumps(message).encode("ascii")
        except RecursionError:
            raise WireError("nested too deeply") from None
        if len(payload) > MAX_FRAME:
            raise WireError(f"larger than {MAX_FRAME} bytes")
        frame = memoryview(struct.pack(">I", len(payload)) + payload)
        try:
            while frame:
                frame = frame[os.write(self._write_descriptor, frame) :]
        except OSError as error:
            raise ClosedError(str(error)) from None

    def receive(self) -> Tree:
        """Read one message. Raises WireError if it is malformed, ClosedError at the end."""
        (length,) = struct.unpack(">I", self._read(4))
        if length > MAX_FRAME:
            raise WireError(f"a message of {length} bytes")
        try:
            return json.loads(self._read(length))
        except (ValueError, RecursionError):
            raise WireError("a message that is not JSON") from None

    def _read(self, length: int) -> bytes:
        parts = []
        while length:
            try:
                part = os.read(self._read_descriptor, length)
            except OSError as error:
                raise ClosedError(str(error)) from None
            if not part:
                raise ClosedError("end of stream")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def _pairs(value: Any, recurse: Recurse) -> Tree:
    return [[recurse(key), recurse(item)] for key, item in dict.items(value)]


def _from_pairs(payload: Any, recurse: Recurse) -> list[tuple[Any, Any]]:
    return [(recurse(key), recurse(item)) for key, item in payload]


def _items(kind: Any) -> Callable[[Any, Recurse], Tree]:
    # The methods of the type itself: a subclass may have overridden its own.
    return lambda value, recurse: [recurse(item) for item in kind.__iter__(value)]


def _deque_to(value: Any, recurse: Recurse) -> Tree:
    return [value.maxlen, [recurse(item) for item in collections.deque.__iter__(value)]]


# Tag: type, to a JSON payload, from it. Subclasses before their bases; a value of any other subclass crosses as its
# base, so that an overridden `__eq__` stays behind.
_CODECS: dict[str, tuple[type, Callable[[Any, Recurse], Tree], Callable[[Any, Recurse], Any]]] = {
    "Counter": (
        collections.Counter,
        _pairs,
        lambda tree, recurse: collections.Counter(dict(_from_pairs(tree, recurse))),
    ),
    "OrderedDict": (
        collections.OrderedDict,
        _pairs,
        lambda tree, recurse: collections.OrderedDict(_from_pairs(tree, recurse)),
    ),
    # Without its factory, which would be a function.
    "dict": (dict, _pairs, lambda tree, recurse: dict(_from_pairs(tree, recurse))),
    "list": (list, _items(list), lambda tree, recurse: list(map(recurse, tree))),
    "tuple": (tuple, _items(tuple), lambda tree, recurse: tuple(map(recurse, tree))),
    "set": (set, _items(set), lambda tree, recurse: set(map(recurse, tree))),
    "frozenset": (frozenset, _items(frozenset), lambda tree, recurse: frozenset(map(recurse, tree))),
    "deque": (collections.deque, _deque_to, lambda tree, recurse: collections.deque(map(recurse, tree[1]), tree[0])),
    "int": (int, lambda value, _: hex(int.__index__(value)), lambda tree, _: int(tree, 16)),
    "float": (float, lambda value, _: float.hex(value), lambda tree, _: float.fromhex(tree)),
    "complex": (complex, lambda value, _: [value.real, value.imag], lambda tree, _: complex(*tree)),
    "str": (str, lambda value, _: str.__str__(value), lambda tree, _: str(tree)),
    "bytes": (bytes, lambda value, _: bytes.hex(value), lambda tree, _: bytes.fromhex(tree)),
    "bytearray": (bytearray, lambda value, _: bytearray.hex(value), lambda tree, _: bytearray.fromhex(tree)),
    "array": (
        array.array,
        lambda value, recurse: [value.typecode, [recurse(item) for item in value]],
        lambda tree, recurse: array.array(tree[0], map(recurse, tree[1])),
    ),
    "range": (range, lambda value, _: [value.start, value.stop, value.step], lambda tree, _: range(*tree)),
}

# Made from numbers and texts. These types alone and not what is derived from them: a `datetime` is no `date`.
_MADE: dict[str, tuple[type, Callable[[Any], list[Any]]]] = {
    "date": (datetime.date, lambda value: [value.year, value.month, value.day]),
    "timedelta": (datetime.timedelta, lambda value: [value.days, value.seconds, value.microseconds]),
    "Decimal": (decimal.Decimal, lambda value: [str(value)]),
    "Fraction": (fractions.Fraction, lambda value: [value.numerator, value.denominator]),
}


def encode(value: Any, refer: Callable[[Any], Tree], depth: int = 0) -> Tree:
    """The JSON of a value; `refer` writes what has no JSON of its own. Raises WireError for what is too deep."""
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int and -_LARGEST_JSON_INT < value < _LARGEST_JSON_INT:
        return value
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH} levels, or within itself")
    for tag, (base, to_payload, _) in _CODECS.items():
        if issubclass(kind, base):
            return [tag, to_payload(value, lambda item: encode(item, refer, depth + 1))]
    if issubclass(kind, type) and vars(builtins).get(value.__name__) is value:
        return ["type", value.__name__]
    for tag, (made, to_arguments) in _MADE.items():
        if kind is made:
            return [tag, to_arguments(value)]
    return refer(value)


def decode(tree: Tree, resolve: Callable[[str, Any], Any], depth: int = 0) -> Any:
    """The value of a JSON tree, of built-in types; `resolve` reads the tags of the other side's `refer`.

    Whatever the tree holds, this returns or raises WireError.
    """
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if not isinstance(tree, list) or len(tree) != 2 or not isinstance(tree[0], str) or depth > MAX_DEPTH + 1:
        raise WireError("a value that is not one")
    tag, payload = tree
    try:
        if tag in _CODECS:
            return _CODECS[tag][2](payload, lambda item: decode(item, resolve, depth + 1))
        if tag == "type":
            return _builtin_type(payload)
        if tag in _MADE:
            return _made(tag, payload)
        return resolve(tag, payload)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError):
        raise WireError(f"a value of type {tag[:40]!r} that is not one") from None


def _builtin_type(name: str) -> type:
    found = vars(builtins)[name]
    if not isinstance(found, type):
        raise WireError(f"{name} is not a type")
    return found


def _made(tag: str, arguments: list[Any]) -> Any:
    if not all(isinstance(argument, (int, str)) for argument in arguments):
        raise WireError(f"a value of type {tag!r} that is not one")
    return _MADE[tag][0](*arguments)
