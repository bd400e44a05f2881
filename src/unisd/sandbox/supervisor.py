"""Reads one job, starts a worker and a judge, ends both, writes the verdict. Runs neither the code nor the tests."""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from unisd.sandbox.confine import import_ahead, keep_descriptors, lock
from unisd.sandbox.judge import judge, modules_read
from unisd.sandbox.seccomp import die_with_parent
from unisd.sandbox.wire import Channel, ClosedError
from unisd.sandbox.worker import serve

_SECONDS_TO_EXIT = 0.5


def main() -> None:
    """Judge the one job on standard input; `sys.argv[2]` is the process that asked, `unisd.tasks.sandbox`."""
    die_with_parent(int(sys.argv[2]))
    job = Channel(0, 1)
    limits, code = job.receive(), job.receive()
    deadline = time.monotonic() + limits["timeout"]
    supervisor = os.getpid()
    requests, replies, verdicts = os.pipe(), os.pipe(), os.pipe()

    def run_worker() -> None:
        read, write = keep_descriptors(supervisor, (requests[0], replies[1]))
        import_ahead("\n".join(code))
        lock(limits["memory_mib"], math.ceil(limits["timeout"]) + 1)
        serve(code, Channel(read, write))

    worker = _fork(run_worker)
    # Read only now, so that they never were in the memory of the worker.
    setup, tests = job.receive(), job.receive()

    def run_judge() -> None:
        read, write, verdict = keep_descriptors(supervisor, (replies[0], requests[1], verdicts[1]))
        try:
            import_ahead("\n".join([setup, *tests]), modules_read(tests))
            lock(limits["memory_mib"], math.ceil(limits["timeout"]) + 1)
        except OSError as error:
            # The judge says it, because a message of the worker could be the code's.
            Channel(read, verdict).send({"unavailable": f"the kernel refuses to confine a process: {error}"})
        else:
            Channel(read, verdict).send(judge(setup, tests, Channel(read, write)))

    judging = _fork(run_judge)
    for descriptor in (*requests, *replies, verdicts[1]):
        os.close(descriptor)
    verdict = _receive_verdict(verdicts[0], deadline)
    judge_end = _end(judging, wait=verdict is None)
    worker_end = _end(worker, wait=bool(verdict and verdict.get("lost")))
    if verdict is None:
        verdict = {"reason": f"protocol: the judge {judge_end}"}
    elif verdict.get("lost"):
        verdict["reason"] = f"killed: the code {worker_end}" if worker_end else verdict["reason"]
    job.send({"passed": False, **verdict})


def _fork(action: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        action()
        status = 0
    except ClosedError:
        status = 0
    finally:
        # Nothing of the code's may run at the end, such as its atexit handlers.
        os._exit(status)


def _receive_verdict(descriptor: int, deadline: float) -> dict[str, Any] | None:
    """What the judge wrote; None if it ended without a word."""
    ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        return {"reason": "timeout"}
    try:
        return Channel(descriptor, descriptor).receive()
    except ClosedError:
        return None


def _end(process: int, *, wait: bool) -> str:
    """Kill and reap; how the process ended by itself, or nothing. `wait` gives one that is ending the time to do so."""
    ended = (0, 0)
    until = time.monotonic() + (_SECONDS_TO_EXIT if wait else 0.0)
    while not ended[0] and time.monotonic() < until:
        ended = os.waitpid(process, os.WNOHANG)
        time.sleep(0.001)
    if not ended[0]:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return ""
    code = os.waitstatus_to_exitcode(ended[1])
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended its process with status {code}"
