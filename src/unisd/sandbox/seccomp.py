"""The system calls that a confined process may make: a list of what is allowed, everything else is refused."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

AUDIT_ARCHITECTURES = {"aarch64": 0xC00000B7, "x86_64": 0xC000003E}
"""How the kernel names the machine that a system call was made for."""

# None of these names a file, a process or an address, makes a process or changes what is enforced.
# Number on x86-64, number on aarch64; None where the machine does not have the call.
ALLOWED: dict[str, tuple[int, int | None]] = {
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "pselect6": (270, 72),
    "read": (0, 63),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "select": (23, None),
    "sigaltstack": (131, 132),
    "time": (201, None),
    "times": (100, 153),
    "write": (1, 64),
}

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE, _KILL_PROCESS = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_OFFSET_OF_NUMBER, _OFFSET_OF_ARCHITECTURE = 0, 4


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def allowed_numbers(machine: str) -> list[int]:
    """Numbers of the allowed calls on this machine, ascending."""
    column = {"x86_64": 0, "aarch64": 1}[machine]
    return sorted(number for number in (numbers[column] for numbers in ALLOWED.values()) if number is not None)


def filter_program(machine: str) -> bytes:
    """The BPF program: another architecture kills the process, a call that is not allowed returns EPERM."""
    numbers = allowed_numbers(machine)
    instructions = [
        (_LOAD_WORD, 0, 0, _OFFSET_OF_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, AUDIT_ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_OF_NUMBER),
        # Each jumps over the rest of the list and the refusal.
        *((_JUMP_IF_EQUAL, len(numbers) - position, 0, number) for position, number in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def install_filter() -> None:
    """Confine this process for good. Raises OSError where the kernel refuses or the filter has no effect."""
    program = filter_program(os.uname().machine)
    buffer = ctypes.create_string_buffer(program, len(program))
    argument = _Program(len(program) // 8, ctypes.cast(buffer, ctypes.c_char_p))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(argument))
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return
    # Emulators of another machine accept a filter and do not apply it.
    raise OSError("a seccomp filter was accepted but has no effect")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends, and end at once if it already has."""
    _prctl(_PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [*arguments, 0, 0, 0, 0][:4]
    if libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
