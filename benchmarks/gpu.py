"""The comparison of `loss_path.py` on a GPU: time by its own events, peak memory, and whether the kernels are right.

    python benchmarks/gpu.py                                   checks, then every case
    python benchmarks/gpu.py --only-checks                     a minute: the Triton rows against float64 on this device
    python benchmarks/gpu.py --cases jsd-4096 --rounds 30 --json gpu.json

The contenders are those of `loss_path.py` and run in turn, round after round. `floor` is the bare matrix products in
the head's type. `rows` is the Triton kernels alone, with the bytes per second that they move.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from loss_path import Case, Inputs, contenders
from torch import Tensor

from unisd.kernels.rows import AfterHead, PairScores, Rows, RowSpec
from unisd.kernels.rows_torch import TorchRows

CASES = {
    "jsd-4096": Case(8192, 4096, 128256, "bfloat16"),
    "kl-4096": Case(8192, 4096, 128256, "bfloat16", divergence="forward_kl"),
    "masked-4096": Case(8192, 4096, 128256, "bfloat16", masked=0.5),
    "contrastive-4096": Case(8192, 4096, 128256, "bfloat16", kind="contrastive"),
    "trainable-2048": Case(4096, 2048, 128256, "bfloat16", kind="trainable"),
    "jsd-2048": Case(8192, 2048, 151936, "bfloat16"),
    "jsd-1024": Case(8192, 1024, 50257, "bfloat16"),
    "logp-4096": Case(8192, 4096, 128256, "bfloat16", kind="logp"),
}
SPECS = {
    "forward_kl": RowSpec("forward_kl"),
    "reverse_kl": RowSpec("reverse_kl", inverse_temperature=0.7),
    "jsd": RowSpec("jsd"),
    "jsd, beta 0.001": RowSpec("jsd", 1e-3),
    "jsd, soft cap": RowSpec("jsd", 0.4, student=AfterHead(0.5, 20.0), teacher=AfterHead(0.5, 20.0)),
}
NO_GPU = "No GPU: PyTorch sees no CUDA, ROCm or XPU device. Nothing was measured. For a CPU there is loss_path.py."


def accelerator() -> torch.device | None:
    """The GPU that PyTorch sees, if any."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None and found.type in ("cuda", "xpu") else None


def on_device(case: Case, device: torch.device) -> Inputs:
    """The inputs of `loss_path`, moved."""
    inputs = Inputs(case)
    for name, value in vars(inputs).items():
        if isinstance(value, Tensor):
            setattr(inputs, name, value.detach().to(device).requires_grad_(value.requires_grad))
    return inputs


def milliseconds(run: Callable[[], object], module: Any) -> float:
    """Of one call, between two events on the device."""
    start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    module.synchronize()
    return start.elapsed_time(end)


def measure_case(case: Case, device: torch.device, num_rounds: int) -> dict[str, dict[str, float]]:
    """Of each contender the median time, the ratio to the floor of the same round, and the extra memory at the peak."""
    module = torch.get_device_module(device)
    inputs = on_device(case, device)
    table: dict[str, dict[str, float]] = {}
    runs = {}
    with torch.device(device):
        for name, make in contenders(case).items():
            run = make(inputs)
            try:
                run()  # compiles
                run()
                module.synchronize()
                module.reset_peak_memory_stats()
                before = module.memory_allocated()
                run()
                table[name] = {"peak_mib": (module.max_memory_allocated() - before) / 2**20}
                runs[name] = run
            except torch.OutOfMemoryError:
                print(f"  {name}: out of memory")
            module.empty_cache()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(num_rounds):
            for name, run in runs.items():
                times[name].append(milliseconds(run, module))
    for name, values in times.items():
        ratios = [mine / least for mine, least in zip(values, times["floor"], strict=True)]
        table[name] |= {"ms": statistics.median(values), "ratio": statistics.median(ratios)}
        table[name] |= {"lowest": min(ratios), "highest": max(ratios)}
    return table


def measure_rows(rows: Rows, spec: RowSpec, device: torch.device, num_rounds: int) -> dict[str, float]:
    """Milliseconds of scoring and gradient of 1024 rows, and the terabytes per second of logits they read and write."""
    module = torch.get_device_module(device)
    student, teacher, ids = random_rows(1024, 128256, device)
    weight = torch.ones(len(ids), device=device)
    scores: list[PairScores] = []

    def score() -> None:
        scores[:] = [rows.pair(student, teacher, ids, spec, has_gradient=True)]

    def differentiate() -> None:
        rows.gradient(student, teacher, ids, spec, scores[0], divergence_weight=weight, logp_weight=weight, out=teacher)

    figures = {}
    num_sweeps = {"score": 2 if spec.divergence == "jsd" else 1, "gradient": 1.5}
    for name, run in (("score", score), ("gradient", differentiate)):
        run()
        times = [milliseconds(run, module) for _ in range(num_rounds)]
        figures[f"{name}_ms"] = statistics.median(times)
        figures[f"{name}_tb_per_s"] = 8e-9 * num_sweeps[name] * student.numel() / statistics.median(times)
    return figures


def random_rows(num_rows: int, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher in padded rows, and tokens."""
    width = -(-vocabulary // 16) * 16
    student = 3 * torch.randn(num_rows, width, device=device)
    teacher = student + torch.randn(num_rows, width, device=device)
    return student[:, :vocabulary], teacher[:, :vocabulary], torch.randint(vocabulary, (num_rows,), device=device)


def check_rows(rows: Rows, device: torch.device) -> Iterator[tuple[str, float]]:
    """Largest relative error of scores and of gradients in place, for every kind; float64 rows are the truth.

    Each is made ten times, and the worst counts: a race between threads would show now and then only.
    """
    for vocabulary in (50257, 49152, 1001):
        for name, spec in SPECS.items():
            student, teacher, ids = random_rows(96, vocabulary, device)
            weights = torch.rand(2, 96, device=device)
            buffers = student.double(), teacher.double()
            truth = TorchRows().pair(*buffers, ids, spec, has_gradient=True)
            TorchRows().gradient(
                *buffers, ids, spec, truth,
                divergence_weight=weights[0].double(), logp_weight=weights[1].double(), out=buffers[0],
            )  # fmt: skip
            worst: dict[str, float] = {}
            for _ in range(10):
                for key, value in _errors(rows, (student, teacher, ids), spec, weights, (truth, buffers[0])).items():
                    worst[key] = max(worst.get(key, 0.0), value)
            for key, value in worst.items():
                yield f"{name}, V = {vocabulary}: {key}", value


def _errors(
    rows: Rows, inputs: tuple[Tensor, Tensor, Tensor], spec: RowSpec, weights: Tensor, truth: tuple[PairScores, Tensor]
) -> dict[str, float]:
    teacher, ids = inputs[1:]
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        student = _padded_copy(inputs[0])
        out = student if kind == torch.float32 else student.as_strided(
            (len(student), student.stride(0)), (student.stride(0), 1)
        ).view(kind)[:, : student.shape[1]]  # fmt: skip
        scores = rows.pair(student, teacher, ids, spec, has_gradient=True)
        rows.gradient(
            student, teacher, ids, spec, scores, divergence_weight=weights[0], logp_weight=weights[1], out=out
        )
        pairs = zip(scores[:5], truth[0][:5], strict=True)
        found["scores"] = max(_relative(mine, true) for mine, true in pairs)
        found[f"gradient in {kind}"] = _relative(out, truth[1])
    return found


def _padded_copy(rows: Tensor) -> Tensor:
    buffer = torch.empty(len(rows), rows.stride(0), device=rows.device)[:, : rows.shape[1]]
    return buffer.copy_(rows)


def _relative(mine: Tensor | None, true: Tensor | None) -> float:
    assert mine is not None
    assert true is not None
    return float((mine.double() - true).norm() / true.norm())


def run_checks(rows: Rows, device: torch.device) -> bool:
    """Prints each check; whether all hold."""
    all_hold = True
    for name, error in check_rows(rows, device):
        holds = error < (5e-3 if "bfloat16" in name else 1e-5)
        all_hold &= holds
        print(f"{'ok  ' if holds else 'FAIL'} {name}: {error:.1e}", flush=True)
    return all_hold


def main() -> int:
    """Check, measure and print; 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only-checks", action="store_true", help="no timings")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = accelerator()
    if device is None:
        print(NO_GPU)
        return 0
    # Here, because it needs Triton.
    from unisd.kernels.rows_triton import TritonRows

    rows = TritonRows()
    print(f"{torch.get_device_module(device).get_device_name()}, torch {torch.__version__}")
    all_hold = run_checks(rows, device)
    figures: dict[str, object] = {"torch": torch.__version__, "checks": all_hold}
    if not options.only_checks:
        for name, spec in SPECS.items():
            figures[f"rows, {name}"] = of_rows = measure_rows(rows, spec, device, options.rounds)
            print(f"rows {name:18} " + ", ".join(f"{key} {value:.3g}" for key, value in of_rows.items()), flush=True)
        for name in options.cases:
            figures[name] = table = measure_case(CASES[name], device, options.rounds)
            for contender, row in table.items():
                print(f"{name:18} {contender:24} " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
