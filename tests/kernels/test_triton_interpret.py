"""The Triton rows are right. They run here in Triton's interpreter, on a CPU, in a process where all of Triton does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("triton_cases.py")
ROOT = CASES.parents[2]


def test_the_triton_rows_pass_their_cases_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed: pip install unisd[triton]")
    # Whether Triton interprets is settled when it is imported, and other tests need it to compile.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src")}
    # Overflow in a branch that is not taken is part of the design.
    options = ["--noconftest", "-q", "-p", "no:cacheprovider", "--tb=short", "-W", "ignore::RuntimeWarning"]
    command = [sys.executable, "-m", "pytest", *options, str(CASES)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
