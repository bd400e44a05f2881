"""Who imports what, and when; the layers themselves are checked by import-linter in `make lint`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import rules

SOURCE_ROOT = Path(__file__).parents[2] / "src"
HEAVY = ["accelerate", "datasets", "matplotlib", "peft", "torch", "transformers", "triton", "vllm"]

# Package or module: the only ones that may import it.
ALLOWED_IMPORTERS = {
    "unisd.kernels": ("unisd.kernels", "unisd.scoring"),
    "vllm": ("unisd.rollout.vllm",),
}


@pytest.mark.parametrize("module", ["unisd", "unisd.cli", "unisd.options", "unisd.stats"])
def test_importing_it_loads_no_heavy_package(module):
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_kernels_and_vllm_are_imported_in_one_place_only():
    found = []
    for path in sorted((SOURCE_ROOT / "unisd").rglob("*.py")):
        importer = ".".join(path.relative_to(SOURCE_ROOT).with_suffix("").parts)
        found += [
            f"{importer}, line {line}: {name}"
            for line, name in rules.imports(path.read_text("utf-8"))
            for package, importers in ALLOWED_IMPORTERS.items()
            if rules.stands_in(name, (package,)) and not rules.stands_in(importer, importers)
        ]
    assert found == []
