"""Jobs of the stand-in process `child.py`."""

from __future__ import annotations

import sys
from pathlib import Path

from unisd.study.pool import Job

CHILD = Path(__file__).parent / "child.py"


def job(folder: Path, name: str, kind: str) -> Job:
    """A job in `folder/name` whose process does `kind`."""
    command = (sys.executable, str(CHILD), str(folder / name), kind)
    return Job(folder / name, command, "result", lambda place: (place / "order").write_text(kind) and None)
