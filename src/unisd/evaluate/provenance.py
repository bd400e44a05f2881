"""What made a result: versions, commit, time, and the model."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from peft import PeftModel

from unisd.evaluate.results import ModelFacts
from unisd.scoring.head import causal_lm

PACKAGES = ("unisd", "torch", "transformers", "peft")
_GIT_SECONDS = 10


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # A checkout on PYTHONPATH is no installed package; its commit says more.
            found[package] = "not installed"
    return found


def git_hash() -> str | None:
    """The commit of the checkout that unisd runs from, `-dirty` where tracked files differ; `None` when installed."""
    checkout = Path(__file__).parents[3]
    if not (checkout / ".git").exists():
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else commit


def _git(checkout: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(checkout), *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def now() -> str:
    """ISO 8601, UTC, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def facts_of(model: Any, *, name_or_path: str | None = None, adapter: str | None = None) -> ModelFacts:
    """Which model it is; for a live one what it remembers of its origin."""
    inner = causal_lm(model)
    name = name_or_path or inner.config._name_or_path or type(inner).__name__
    if adapter is not None:
        description = f"{name} with the adapter {adapter}"
    else:
        description = f"{name} with an adapter in memory" if isinstance(model, PeftModel) else name
    parameter = next(inner.parameters())
    dtype = str(parameter.dtype).removeprefix("torch.")
    return ModelFacts(name, adapter, description, dtype, parameter.device.type)
