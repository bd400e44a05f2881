"""The filter, read as the kernel reads it; that this kernel enforces it is shown in tests/tasks/test_sandbox.py."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from unisd.sandbox.seccomp import ALLOWED, AUDIT_ARCHITECTURES, allowed_numbers, filter_program

ALLOW, REFUSE_WITH_EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000
HEADERS = {"aarch64": "asm-generic/unistd.h", "x86_64": "x86_64-linux-gnu/asm/unistd_64.h"}


def decide(program: bytes, number: int, architecture: int) -> int:
    """What the program returns: load word, jump if equal, return."""
    data = struct.pack("=II", number, architecture)
    position, accumulator = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, 8 * position)
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x15:
            position += if_true if accumulator == operand else if_false
        else:
            assert code == 0x06
            return operand


@pytest.mark.parametrize("machine", AUDIT_ARCHITECTURES)
def test_exactly_the_allowed_calls_of_the_machine_are_allowed(machine):
    program, architecture = filter_program(machine), AUDIT_ARCHITECTURES[machine]
    allowed = [number for number in range(1024) if decide(program, number, architecture) == ALLOW]
    assert allowed == allowed_numbers(machine)
    # The 32-bit-pointer table of x86-64 has the same architecture and a bit of its own.
    for number in {*range(1024), 0x40000000, 0x40000001, 0xFFFFFFFF} - set(allowed):
        assert decide(program, number, architecture) == REFUSE_WITH_EPERM


@pytest.mark.parametrize("machine", AUDIT_ARCHITECTURES)
def test_a_call_of_any_other_architecture_ends_the_process(machine):
    program = filter_program(machine)
    others = {0x40000003, 0xC000003E, 0xC00000B7, 0x40000028, 0} - {AUDIT_ARCHITECTURES[machine]}
    assert {decide(program, 0, architecture) for architecture in others} == {KILL}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_the_kernel_headers(machine):
    header = Path("/usr/include") / HEADERS[machine]
    if not header.exists():
        pytest.skip(f"no {header}")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    column = {"x86_64": 0, "aarch64": 1}[machine]
    expected = {name: pair[column] for name, pair in ALLOWED.items() if pair[column] is not None}
    assert {name: int(numbers[name]) for name in expected} == expected


def test_nothing_is_allowed_that_names_a_file_a_process_or_an_address():
    words = ("open", "stat", "exec", "clone", "fork", "kill", "trace", "socket", "connect", "prctl", "mount", "ioctl")
    assert [name for name in ALLOWED if any(word in name for word in words)] == []
