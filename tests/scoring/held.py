"""How much memory a piece of code holds at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_bytes_of(run: Callable[[], object], folder: Path) -> int:
    """The most that `run` holds at a time, what was there before not counted.

    From the profiler's record of every allocation: exact, and the same at each run.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    trace = folder / "trace.json"
    record.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak
