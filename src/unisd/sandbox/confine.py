"""Makes a forked process one that can only compute, read one pipe and write another."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import re
import resource
import sys
from collections.abc import Iterable, Sequence

from unisd.sandbox.seccomp import die_with_parent, install_filter

_FIRST_KEPT_DESCRIPTOR = 100
_IMPORT = re.compile(r"(?:\bfrom[ \t]+([\w.]+)[ \t]+)?\bimport[ \t]*(\([^)]*\)|[^\n;#]*)")
# Imported before the process is confined, so only what does nothing when it is imported: no `antigravity`, which opens
# a browser, no `ensurepip`, `idlelib` or `test`. Parts named `__main__` and `test` stay out as well.
_IMPORTABLE = (
    "abc argparse array ast asyncio atexit base64 binascii bisect builtins bz2 calendar cmath codecs collections "
    "colorsys concurrent contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib dis "
    "doctest email enum errno faulthandler fcntl fnmatch fractions functools gc getpass glob graphlib gzip "
    "hashlib heapq hmac html http importlib inspect io ipaddress itertools json keyword linecache locale logging "
    "lzma marshal math mimetypes mmap multiprocessing numbers opcode operator optparse os pathlib pickle pkgutil "
    "platform posixpath pprint profile pty queue quopri random re reprlib resource sched secrets select selectors "
    "shelve shlex shutil signal socket sqlite3 ssl stat statistics string stringprep struct subprocess symtable "
    "sys sysconfig tempfile textwrap threading time timeit token tokenize trace traceback tracemalloc types "
    "typing unicodedata unittest urllib uuid warnings weakref xml zipfile zlib zoneinfo"
)
IMPORTABLE = frozenset(_IMPORTABLE.split())
"""Modules of the standard library that the code and the tests may import, with their submodules."""
_CODECS = ("ascii", "base64_codec", "cp1252", "hex_codec", "idna", "latin_1", "rot_13", "unicode_escape", "utf_16")
# A word of the text: what is imported only when that is used.
_LATER_IMPORTS = {
    "\\N{": ("unicodedata",),
    "code": tuple(f"encodings.{name}" for name in _CODECS),
    "minidom": ("xml.dom.expatbuilder",),
    "singledispatch": ("weakref",),
    "socket": ("encodings.idna",),
    "strptime": ("_strptime",),
    "traceback": ("linecache",),
}


def import_ahead(text: str, names: Iterable[str] = ()) -> None:
    """Import what `text` imports and `names`, as far as it is importable, while files can be opened.

    Read with a regular expression and not parsed: the text is untrusted, and too many imports do no harm.
    """
    found = list(names)
    for origin, imported in _IMPORT.findall(text.replace("\\\n", " ")):
        parts = [part.split()[0] for part in imported.strip("() \t").split(",") if part.split()]
        found += [origin, *(f"{origin}.{part}" for part in parts)] if origin else parts
    for name in found:
        package, *parts = name.split(".")
        if package in IMPORTABLE and not {"", "__main__", "test"} & set(parts):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    for word, later in _LATER_IMPORTS.items():
        for name in later if word in text else ():
            importlib.import_module(name)
    if "random" in sys.modules:
        # Two evaluations of one program give one result.
        sys.modules["random"].seed(0)


def keep_descriptors(parent: int, descriptors: Sequence[int]) -> list[int]:
    """Close every descriptor but these, put the null device in the place of the first three; their new numbers."""
    die_with_parent(parent)
    kept = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, _FIRST_KEPT_DESCRIPTOR) for descriptor in descriptors]
    os.closerange(0, _FIRST_KEPT_DESCRIPTOR)
    for _ in range(3):
        os.open(os.devnull, os.O_RDWR)
    return kept


def lock(memory_mib: int, cpu_seconds: int) -> None:
    """Set the limits and the filter, for good. Raises OSError where the platform does not let it."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_mib * 1024 * 1024),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (lowest, lowest))
    install_filter()
