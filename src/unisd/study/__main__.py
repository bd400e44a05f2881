"""The process of one run of a study: `python -m unisd.study FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from unisd.study.pool import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    # After it: importing torch takes seconds, in which a process whose study was killed would live on.
    from unisd.study.run import main

    main(Path(sys.argv[1]))
