"""Values cross unchanged and as built-in types, and no message makes the reader do more than raise."""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import fractions
import json
import math
import os
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import pytest

from unisd.sandbox.wire import MAX_FRAME, Channel, ClosedError, WireError, decode, encode


def refuse(*_):
    raise WireError("stays behind")


def cross(value):
    """As the other side reads it."""
    return decode(json.loads(json.dumps(encode(value, refuse))), refuse)


VALUES = [
    None, True, False, 0, -(2**53), 2**100, 10**5000, 0.1, -0.0, math.inf, 1e-320, 2 - 3j, complex(0, math.inf),
    "", "\u00e9\n\ud800", b"\x00\xff", bytearray(b"a"), (), (1, (2,)), [], [[1], "list"], ["list", [1]], {1, "a"},
    frozenset({(1, 2)}), {}, {1: "a", (2, 3): [None]}, {"value": 1}, range(3, 9, 2), Counter("aab"),
    OrderedDict([(2, 1), (1, 2)]), deque([1, 2], maxlen=3), array.array("d", [0.5]), int, ValueError,
    fractions.Fraction(1, 3), decimal.Decimal("1.50"), datetime.date(2026, 1, 2), datetime.timedelta(1, 2),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20] if value != 10**5000 else "long")
def test_a_value_crosses_with_its_type(value):
    crossed = cross(value)
    assert crossed == value
    assert type(crossed) is type(value)


def test_nan_and_the_sign_of_zero_cross():
    assert math.isnan(cross(math.nan))
    assert math.isnan(cross([math.nan])[0])
    assert math.copysign(1, cross(-0.0)) == -1


class Liar(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class LyingList(list):
    def __eq__(self, other):
        return True

    def __iter__(self):
        return iter([1, 2, 3])


Pair = namedtuple("Pair", "a b")
Number = enum.IntEnum("Number", {"TWO": 2})


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Liar(3), 3),
        (LyingList([4]), [4]),
        (Pair(1, 2), (1, 2)),
        (Number.TWO, 2),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        ({Liar(3): LyingList()}, {3: []}),
    ],
    ids=repr,
)
def test_a_value_of_a_subclass_crosses_as_its_base(value, plain):
    crossed = cross(value)
    assert crossed == plain
    assert type(crossed) is type(plain)


@pytest.mark.parametrize("value", [object(), len, lambda: 1, iter([]), LyingList, os], ids=repr)
def test_what_is_no_value_is_referred_to(value):
    assert encode([value], lambda found: ["remote", found is value]) == ["list", [["remote", True]]]


def test_a_value_within_itself_is_refused():
    items = []
    items.append(items)
    with pytest.raises(WireError, match="nested deeper than 100 levels"):
        encode(items, refuse)


def nested(depth):
    return ["list", [nested(depth - 1)]] if depth else None


TREES = [
    [], {}, {"value": 1}, ["list"], ["list", 1, 2], [1, 2], ["list", 3], ["unknown", 1], ["set", [["list", []]]],
    ["int", "zz"], ["int", 3], ["int", None], ["float", "one"], ["float", "0x1p99999"], ["complex", ["x"]],
    ["bytes", "f"], ["dict", [[1]]], ["dict", [[["list", []], 1]]], ["range", [1, 2, 0]], ["range", ["a"]],
    ["deque", [-1, []]], ["array", ["w", [300]]], ["array", []], ["Counter", 7],
    ["type", "len"], ["type", "__import__"], ["type", []],
    ["Decimal", [["list", []]]], ["Decimal", ["many"]], ["date", None], ["date", [2026, 13, 1]], ["Fraction", [1, 0]],
    nested(103),
]  # fmt: skip


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: repr(tree)[:30])
def test_a_tree_that_is_no_value_is_refused(tree):
    with pytest.raises(WireError):
        decode(tree, refuse)


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        (b"", ClosedError, "end of stream"),
        (b"\0\0", ClosedError, "end of stream"),
        (struct.pack(">I", 5) + b"12", ClosedError, "end of stream"),
        (struct.pack(">I", MAX_FRAME + 1), WireError, "a message of 16777217 bytes"),
        (struct.pack(">I", 2) + b"{]", WireError, "not JSON"),
        (struct.pack(">I", 2) + b"\xff\xfe", WireError, "not JSON"),
        (struct.pack(">I", 40000) + b"[" * 40000, WireError, "not JSON"),
        (struct.pack(">I", 5000) + b"9" * 5000, WireError, "not JSON"),
    ],
)
def test_a_broken_frame_is_refused(written, error, message):
    read_end, write_end = os.pipe()
    os.write(write_end, written)
    os.close(write_end)
    with pytest.raises(error, match=message):
        Channel(read_end, -1).receive()
    os.close(read_end)


def test_a_message_that_is_too_long_or_that_nobody_reads_is_not_sent():
    read_end, write_end = os.pipe()
    with pytest.raises(WireError, match="larger than 16777216 bytes"):
        Channel(-1, write_end).send("x" * MAX_FRAME)
    os.close(read_end)
    with pytest.raises(ClosedError, match="Broken pipe"):
        Channel(-1, write_end).send("x")
    os.close(write_end)
