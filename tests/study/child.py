"""Stands in for a run of a study: `child.py FOLDER KIND`. Writes its result last, or what else it is told to do."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from unisd.study.pool import end_with_parent


def main(folder: Path, kind: str) -> None:
    (folder / "beginning").write_text(str(os.getpid()))
    (folder / "beginning").rename(folder / "began")
    end_with_parent()
    if kind == "fails":
        sys.stdout.write("first line\n")
        sys.stdout.flush()
        raise ValueError("the data is missing")
    if kind == "dies":
        sys.stdout.write(" 12%|#         | 5/40")
        sys.stdout.flush()
        os.kill(os.getpid(), 9)
    if kind == "finishes then dies":
        (folder / "result").write_text("done")
        os.kill(os.getpid(), 9)
    if kind == "after slow":
        # Ends only where another process runs beside it.
        while not (folder.parent / "slow" / "began").exists():
            time.sleep(0.02)
    if kind == "waits":
        time.sleep(60)
    (folder / "result").write_text(f"{kind} {os.environ['OMP_NUM_THREADS']} {os.environ['OMP_WAIT_POLICY']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
