"""What the Triton kernels compile to, and that they can be compiled at all; no GPU is needed for either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NVIDIA, AMD = ("sm_80", "sm_90", "sm_100"), ("gfx942", "gfx950")
PLAIN = ("log-probability", "forward_kl", "reverse_kl", "jsd")


@pytest.fixture(scope="module", autouse=True)
def _triton() -> None:
    pytest.importorskip("triton", reason="triton is not installed: pip install unisd[triton]")


def run_benchmark(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_every_gate_holds_for_the_plain_kernels_on_every_target(tmp_path):
    path = tmp_path / "aot.json"
    done = run_benchmark("aot.py", "--check", "--variants", *PLAIN, "--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = json.loads(path.read_text())
    assert {(line["target"], line["vocabulary"]) for line in lines} == {
        (target, vocabulary) for target in NVIDIA + AMD for vocabulary in ("V % 16 = 0", "any V")
    }
    for line in lines:
        # The gates once more, so that none can be lost in the script.
        assert line["spills"] == 0
        assert line["wide_loads"] == line["loads"] > 0
        assert line["wide_tail_loads"] == line["tail_loads"] > 0
        assert 10 < line["instructions"] <= 80


def test_every_gate_holds_for_every_other_kernel_on_one_target_each():
    done = run_benchmark("aot.py", "--check", "--targets", "sm_90", "gfx942", "--vocabulary", "any")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_gate_fails_where_it_should(tmp_path):
    # A ceiling of 0 stands for a kernel that has grown.
    program = (
        "import sys; sys.argv = ['aot.py', '--check', '--targets', 'sm_90', '--variants', 'forward_kl', '--jobs', '1'];"
        "import aot; aot.VARIANTS['forward_kl'] = aot.VARIANTS['forward_kl']._replace(ceiling=5); sys.exit(aot.main())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'benchmarks'}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "instructions per pair" in done.stdout
    assert "0 of 2 pass every gate" in done.stdout


def test_the_benchmark_for_gpus_says_that_there_is_none():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No GPU: ")
    refused = subprocess.run([*command, "--cases", "jsd"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "jsd-4096" in refused.stderr


def test_the_checker_of_annotations_leaves_the_kernels_to_triton():
    from unisd.kernels import triton_gradient, triton_math, triton_scores

    kernels = [
        value
        for module in (triton_math, triton_scores, triton_gradient)
        for value in vars(module).values()
        if type(value).__name__ == "JITFunction" and value.module == module.__name__
    ]
    assert len(kernels) > 20
    for kernel in kernels:
        assert kernel.fn.__globals__["__name__"] == kernel.module, kernel
