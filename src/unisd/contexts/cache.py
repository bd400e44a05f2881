"""Contexts that took long to build, kept in files: found by content, never half-written, never half-read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisd.hub import cache_folder

logger = logging.getLogger(__name__)

FORMAT = "unisd contexts 1"
"""Stands in every file. Count it up when a builder would give other results for the same key."""


@dataclass(frozen=True)
class Built:
    """The result of one build, made now or found."""

    rows: list[Any]
    """JSON values, in the builder's own order."""
    seconds: float
    """What making it took, then or now."""
    is_new: bool
    """It was made now."""
    path: Path | None
    """The file that holds it; `None` where the folder cannot be written to."""


def content_hash(*parts: Any) -> str:
    """64 hex digits that depend on all parts, which are JSON values; the order of keys does not count."""
    return hashlib.sha256(_canonical(parts).encode()).hexdigest()


def cached(kind: str, key: str, build: Callable[[], list[Any]]) -> Built:
    """The rows that `build` returns, from the file for `key` where there is a sound one, else built and written.

    `key` is a content hash of everything the rows depend on.
    """
    path = cache_folder() / "contexts" / f"{kind}-{key[:32]}.json"
    found = _read(path, key)
    if found is not None:
        return found
    start = time.monotonic()
    rows = build()
    seconds = time.monotonic() - start
    try:
        _write(path, key, rows, seconds)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the contexts are built again next time.", path, error.strerror)
        return Built(rows, seconds, is_new=True, path=None)
    return Built(rows, seconds, is_new=True, path=path)


def _read(path: Path, key: str) -> Built | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    # UnicodeDecodeError and JSONDecodeError are ValueErrors; brackets without end exceed the parser's depth.
    except (OSError, ValueError, RecursionError) as error:
        return _unusable(path, f"cannot be read ({error})")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return _unusable(path, f"is not in the format {FORMAT!r}")
    if content.get("key") != key:
        return _unusable(path, "belongs to another build")
    if content.get("checksum") != content_hash(key, content.get("rows"), content.get("seconds")):
        return _unusable(path, "does not match its checksum")
    return Built(content["rows"], content["seconds"], is_new=False, path=path)


def _unusable(path: Path, fault: str) -> None:
    logger.warning("%s %s: its contexts are built again and the file is replaced.", path, fault)


def _write(path: Path, key: str, rows: list[Any], seconds: float) -> None:
    checksum = content_hash(key, rows, seconds)
    content = {"format": FORMAT, "key": key, "checksum": checksum, "seconds": seconds, "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place and renamed, so that a reader finds the whole file or none, also where two processes write it.
    handle, partial = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    finally:
        Path(partial).unlink(missing_ok=True)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
