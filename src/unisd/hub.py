"""What the hub has, what an installed wheel ships instead, and the folder for what is built once."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

_HUB_SECONDS = 4.0


def cache_folder() -> Path:
    """`$UNISD_CACHE`, or `~/.cache/unisd`."""
    return Path(os.environ.get("UNISD_CACHE") or Path.home() / ".cache" / "unisd").expanduser()


def hub_has(hub_id: str, files: Sequence[str]) -> bool:
    """Whether the files of the model are in the hub's cache, or the hub answers for the first of them."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(hub_id, name), str) for name in files) or _answers(hub_id, files[0])


def wheel_path(wheel: str, name: str) -> Path | None:
    """A file or folder inside an installed wheel, whose module is not imported; `None` without it."""
    spec = importlib.util.find_spec(wheel.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / name
    return path if path.exists() else None


def _answers(hub_id: str, file: str) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    executor = ThreadPoolExecutor(max_workers=1)
    answer = executor.submit(get_hf_file_metadata, hf_hub_url(hub_id, file), timeout=_HUB_SECONDS)
    # The request's own limit does not cover the name look-up, hence a second one here, which leaves the thread behind.
    executor.shutdown(wait=False)
    try:
        return answer.exception(timeout=_HUB_SECONDS + 1) is None
    except FutureTimeout:
        return False
