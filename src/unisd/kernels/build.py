"""Compiles `csrc/rows.c` on first use, and keeps it for the next process."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from threading import Lock

from unisd.hub import cache_folder
from unisd.kernels.rows_c import CRows, declare

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("csrc") / "rows.c"
_VECTORISING = ["-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
_FLAGS = [*_VECTORISING, "-std=c11", "-fPIC", "-shared"]
_TARGETS = (["-march=native"], ["-mcpu=native"], [])
"""Not every compiler knows the first on every processor."""
_LOCK = Lock()


class BuildError(Exception):
    """Why there are no compiled rows on this machine."""


def c_rows() -> CRows:
    """The compiled rows; raises `BuildError` where they cannot be had."""
    # `lru_cache` alone would let two threads compile at once.
    with _LOCK:
        outcome = _outcome()
    if isinstance(outcome, str):
        raise BuildError(outcome)
    return outcome


@lru_cache(maxsize=1)
def _outcome() -> CRows | str:
    """The rows, or why there are none: asked once in a process, also where the answer is no."""
    try:
        compiler = _compiler()
        try:
            return _loaded(compiler, cache_folder() / "kernels")
        except (OSError, RuntimeError):
            # No home, a read-only one, or one from which nothing may be executed: a private folder may do.
            with tempfile.TemporaryDirectory(prefix="unisd-") as folder:
                return _loaded(compiler, Path(folder))
    except (BuildError, OSError) as error:
        return str(error)


def _compiler() -> list[str]:
    candidates = [shlex.split(os.environ.get("CC", "")), ["cc"], ["gcc"], ["clang"]]
    for command in candidates:
        if command and shutil.which(command[0]):
            return command
    raise BuildError("There is no C compiler: neither $CC nor cc, gcc or clang is on the path.")


def _loaded(compiler: list[str], folder: Path) -> CRows:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = _key(compiler)
    library = ctypes.CDLL(str(_kept(folder, key) or _compiled(compiler, folder, key)))
    declare(library)
    return CRows(library)


def _kept(folder: Path, key: str) -> Path | None:
    """A library that an earlier process left, if it is what that process wrote: its name holds its hash."""
    for path in sorted(folder.glob(f"rows-{key}-*.so")):
        if path.stem.rsplit("-", 1)[1] == _short_hash(path.read_bytes()):
            return path
        # Loading a file that was cut short kills the process rather than raising an error.
        logger.warning("%s is damaged; compiling again.", path)
        path.unlink(missing_ok=True)
    return None


def _compiled(compiler: list[str], folder: Path, key: str) -> Path:
    """Written next to its place and moved there in one step: a process beside this one sees all of it or nothing."""
    errors = ""
    for target in _TARGETS:
        descriptor, name = tempfile.mkstemp(dir=folder, suffix=".tmp")
        os.close(descriptor)
        command = [*compiler, *_FLAGS, *target, str(_SOURCE), "-o", name, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            final = folder / f"rows-{key}-{_short_hash(Path(name).read_bytes())}.so"
            os.replace(name, final)
            return final
        os.unlink(name)
        errors = errors or done.stderr
    raise BuildError(f"{shlex.join(compiler)} does not compile {_SOURCE.name}: {errors[:500].strip()}")


@lru_cache(maxsize=1)
def _processor() -> str:
    """What `-march=native` depends on: a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    kept = [line for line in lines if line.split("\t")[0] in ("model name", "flags", "Features", "CPU part")]
    return "\n".join(kept)


def _key(compiler: list[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = [_SOURCE.read_text(encoding="utf-8"), *_FLAGS, *compiler, version, platform.machine(), _processor()]
    return _short_hash("\0".join(parts).encode())


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
