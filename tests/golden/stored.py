"""Stored results. `UNISD_WRITE_GOLDEN=1 pytest tests/golden` writes them anew; say in the commit why they changed."""

from __future__ import annotations

import os
from pathlib import Path

REWRITE = "UNISD_WRITE_GOLDEN=1 pytest tests/golden"


def read_or_write(path: Path, text: str) -> str:
    """What is stored under `path`; `text` itself after storing it, where that is asked for."""
    if os.environ.get("UNISD_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.is_file(), f"{path.name} is not stored yet: {REWRITE}"
    return path.read_text(encoding="utf-8")
