"""What a forward and backward pass adds to the memory of a fresh process; measured by the benchmark's own code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def peak(num_tokens: int, *, name: str = "unisd", num_features: int = 32, **case) -> float:
    """MiB, with a vocabulary of 49,152."""
    described = json.dumps({"num_tokens": num_tokens, "num_features": num_features, **case})
    command = [sys.executable, str(ROOT / "benchmarks" / "loss_path.py"), "--peak-of", described, name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_two_thousand_tokens_over_a_vocabulary_of_49152_take_one_chunk() -> None:
    # Two buffers of 256 rows are 96 MiB; whole logits of student and teacher are 768, and log_softmax twice that.
    assert peak(2048) < 115
    # The bound sees it when 256 tokens are taken whole.
    assert peak(256, name="full") > 3 * 48
