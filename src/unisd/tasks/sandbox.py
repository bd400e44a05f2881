"""Tests on model-written code, in processes that can compute and nothing else. What is promised: docs/sandbox.md."""

from __future__ import annotations

import json
import math
import os
import platform
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisd.sandbox.seccomp import AUDIT_ARCHITECTURES

SMALLEST_MEMORY_MIB = 64
"""Less does not hold the interpreter."""
_SECONDS_TO_START = 20.0
_START = "import sys; sys.path[0] = sys.argv[1]; from unisd.sandbox.supervisor import main; main()"


@dataclass(frozen=True)
class SandboxResult:
    """Whether every test passed, why not, and how long it took."""

    passed: bool
    reason: str
    """A word and detail: `passed`, `timeout`, `memory`, `assertion failed: ...`, `raised NameError: ...`, `killed: ...`
    (the code ended its own process) or `protocol: ...` (it broke the conversation with the judge)."""
    seconds: float
    """Wall-clock, the start of the processes included."""


@dataclass(frozen=True)
class SandboxJob:
    """The arguments of `run_tests`, for `run_many`."""

    code: str
    tests: Sequence[str] | str
    setup: str = ""
    timeout: float = 10.0
    memory_mib: int = 512
    given_code: str = ""


def run_tests(
    code: str,
    tests: Sequence[str] | str,
    *,
    setup: str = "",
    timeout: float = 10.0,
    memory_mib: int = 512,
    given_code: str = "",
) -> SandboxResult:
    """Run `code`, then the statements `tests` on what it defines. May be called from several threads at once.

    `setup` (imports, helpers of the tests) runs beside the tests and not beside the code; what it defines stands before
    what the code defines, except functions with nothing but a docstring, which the code is to supply. `timeout` is
    wall-clock seconds for everything, `memory_mib` the address space of each process. `given_code` (imports, helpers of
    the code) runs before the code in the same module. Raises ValueError if the tests themselves do not run, or on a
    platform where the code cannot be confined.
    """
    statements = [tests] if isinstance(tests, str) else list(tests)
    if not any(statement.strip() for statement in statements):
        raise ValueError("sandbox: no tests were given, so that any code would pass. Give at least one statement.")
    if not 0 < timeout < math.inf:
        raise ValueError(f"sandbox: timeout must be a positive number of seconds, got {timeout}.")
    if memory_mib < SMALLEST_MEMORY_MIB:
        raise ValueError(f"sandbox: memory_mib must be at least {SMALLEST_MEMORY_MIB}, got {memory_mib}.")
    _check_platform()
    start = time.monotonic()
    verdict = _supervise(
        [{"timeout": timeout, "memory_mib": memory_mib}, [given_code, code], setup, statements], timeout
    )
    if "unavailable" in verdict:
        raise ValueError(_unavailable(verdict["unavailable"]))
    if "fault" in verdict:
        raise ValueError(f"sandbox: {verdict['fault']}. Correct the tests; no code can pass them.")
    return SandboxResult(verdict["passed"], verdict["reason"], time.monotonic() - start)


def run_many(jobs: Iterable[SandboxJob], *, workers: int) -> list[SandboxResult]:
    """The results in the order of the jobs, `workers` at a time; more than the machine has cores leads to timeouts."""

    def run(job: SandboxJob) -> SandboxResult:
        return run_tests(**vars(job))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, jobs))


def check_available() -> None:
    """Raise ValueError, with what is missing, where model-written code cannot be confined; try it otherwise."""
    result = run_tests("def double(number):\n    return 2 * number", "assert double(2) == 4", timeout=_SECONDS_TO_START)
    if not result.passed:
        raise ValueError(_unavailable(f"a right answer was not judged right ({result.reason})"))


def _check_platform() -> None:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in AUDIT_ARCHITECTURES:
        raise ValueError(
            _unavailable(f"it needs Linux on {' or '.join(AUDIT_ARCHITECTURES)}, this is {sys.platform} on {machine}")
        )


def _unavailable(why: str) -> str:
    return (
        f"sandbox: model-written code cannot be run safely here: {why}. It is not run with less; evaluate this task in "
        "a Linux container or virtual machine whose profile allows seccomp filters."
    )


def _supervise(messages: Sequence[Any], timeout: float) -> dict[str, Any]:
    """What the supervisor says about one job. It has no environment, no descriptors and no terminal of ours."""
    payloads = [json.dumps(message).encode("ascii") for message in messages]
    command = [sys.executable, "-s", "-S", "-c", _START, str(Path(__file__).parents[2]), str(os.getpid())]
    # The order of a set of strings is the same in every evaluation; some interpreters need the other one to start.
    needed = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    try:
        done = subprocess.run(
            command,
            input=b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads),
            capture_output=True,
            timeout=timeout + _SECONDS_TO_START,
            cwd="/",
            env={"PYTHONHASHSEED": "0", **needed},
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"passed": False, "reason": "timeout"}
    if done.returncode != 0 or len(done.stdout) < 4:
        # It does not run the code, so this is no verdict on it.
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {done.returncode}"]
        return {"unavailable": f"the supervising process ended: {lines[-1]}"}
    return json.loads(done.stdout[4:])
