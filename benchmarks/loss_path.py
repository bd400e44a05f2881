"""The loss path on this machine's CPU: time next to its bare matrix products and to other implementations, and memory.

    python benchmarks/loss_path.py                    every case on one thread and on two (most of an hour)
    python benchmarks/loss_path.py --quick            a minute: does everything run
    python benchmarks/loss_path.py --cases jsd-512 kl-512 --threads 1 --rounds 9 --json figures.json
    python benchmarks/loss_path.py --only-memory      peak memory alone, each contender in fresh processes

All contenders of a case run in turn, round after round in one process, because a machine's speed drifts; a figure is
the median over rounds of (contender / floor of the same round). The floor is the matrix products alone, on all tokens
in chunks of 512 into buffers made before. TRL and Liger take part where the extra `bench` is installed; both do less
(the divergence alone, Liger summed to a scalar); `full` and `stacked` compute what unisd does, from whole logits.

The allocator is made kind to whoever allocates much, by MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_ (glibc): freed
pages stay with the process. `--allocator default` leaves it as a user has it. Memory is always measured so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unisd import kernels

KIND = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
HAS_TRL = importlib.util.find_spec("trl") is not None
HAS_LIGER = importlib.util.find_spec("liger_kernel") is not None
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A size and what is asked for; forward and backward unless `kind` says otherwise."""

    num_tokens: int
    num_features: int = 576
    vocabulary: int = 49152
    dtype: str = "float32"
    divergence: str = "jsd"
    kind: str = "frozen"
    """`frozen` or `trainable` head, `contrastive` (a hinge on the log-probability too), `logp` (one view, no grad)."""
    masked: float = 0.0
    """Share of the tokens that do not count."""

    @property
    def beta(self) -> float:
        """In the convention that TRL and Liger share."""
        return {"forward_kl": 0.0, "jsd": 0.5, "reverse_kl": 1.0}[self.divergence]


CASES = {
    "jsd-512": Case(512),
    "jsd-1024": Case(1024),
    "jsd-2048": Case(2048),
    "kl-512": Case(512, divergence="forward_kl"),
    "kl-2048": Case(2048, divergence="forward_kl"),
    "reverse-512": Case(512, divergence="reverse_kl"),
    "masked-1024": Case(1024, masked=0.5),
    "contrastive-512": Case(512, kind="contrastive"),
    "trainable-512": Case(512, kind="trainable"),
    "bf16-128": Case(128, dtype="bfloat16"),
    "large-512": Case(512, num_features=896, vocabulary=151936),
    "large-kl-512": Case(512, num_features=896, vocabulary=151936, divergence="forward_kl"),
    "logp-512": Case(512, kind="logp"),
    "logp-bf16-128": Case(128, kind="logp", dtype="bfloat16"),
}
QUICK = {
    "jsd": Case(96, 64, 5003),
    "contrastive": Case(96, 64, 5003, divergence="forward_kl", kind="contrastive"),
    "trainable": Case(96, 64, 5003, kind="trainable", masked=0.5),
    "logp": Case(96, 64, 5003, kind="logp", dtype="bfloat16"),
}
MEMORY_CASES = {
    "jsd-512": Case(512),
    "jsd-2048": Case(2048),
    "trainable-1024": Case(1024, kind="trainable"),
    "bf16-2048": Case(2048, dtype="bfloat16"),
}


class Inputs:
    """Random states and heads whose distributions are as sharp, and as close to each other, as a model's and its
    demonstration's: about 2.5 nats of entropy, 0.1 to 0.5 nats apart."""

    def __init__(self, case: Case) -> None:
        self.case = case
        dtype = getattr(torch, case.dtype)
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        states = normal(case.num_tokens, case.num_features)
        head = normal(case.vocabulary, case.num_features) * (4.2 / case.num_features**0.5)
        self.student = states.to(dtype, copy=True).requires_grad_(case.kind != "logp")
        self.teacher = (states + 0.2 * normal(case.num_tokens, case.num_features)).to(dtype)
        self.head = head.to(dtype).requires_grad_(case.kind == "trainable")
        self.ids = torch.randint(case.vocabulary, (case.num_tokens,), generator=generator)
        self.mask = torch.rand(case.num_tokens, generator=generator) >= case.masked
        self.weights = torch.rand(case.num_tokens, generator=generator)
        self.negative_logp = -5 * torch.rand(case.num_tokens, generator=generator)

    def backward(self, values: Tensor) -> None:
        """Of the weighted mean over the tokens that count."""
        torch.where(self.mask, values * self.weights, 0.0).mean().backward()
        self.student.grad = self.head.grad = None

    def hinge(self, student_logp: Tensor, teacher_logp: Tensor, negative_logp: Tensor) -> Tensor:
        """The contrastive term."""
        return torch.relu(0.5 + (student_logp - teacher_logp).abs() - (student_logp - negative_logp).abs())


def floor(inputs: Inputs) -> Run:
    """The matrix products that cannot be avoided: 3 units, 4 with a trainable head, 1 for log-probabilities."""
    case, rows = inputs.case, min(512, inputs.case.num_tokens)
    student, teacher, head = inputs.student.detach(), inputs.teacher, inputs.head.detach()
    logits = torch.empty(rows, case.vocabulary, dtype=head.dtype)
    gradient, of_head = torch.empty_like(student), torch.empty_like(head)

    def run() -> None:
        for start in range(0, case.num_tokens, rows):
            tokens = slice(start, start + rows)
            torch.mm(student[tokens], head.T, out=logits)
            if case.kind == "logp":
                continue
            torch.mm(teacher[tokens], head.T, out=logits)
            torch.mm(logits, head, out=gradient[tokens])
            if case.kind == "trainable":
                torch.mm(logits.T, student[tokens], out=of_head)

    return run


def unisd(inputs: Inputs) -> Run:
    """This library."""
    case, head = inputs.case, inputs.head
    if case.kind == "logp":
        return lambda: kernels.token_logp(inputs.student, head, inputs.ids, mask=inputs.mask)
    options = {"ids": inputs.ids, "mask": inputs.mask, "divergence": case.divergence}
    if case.kind != "contrastive":

        def run() -> None:
            scores = kernels.token_scores(inputs.student, head, inputs.teacher, **options)
            inputs.backward(scores.divergence)

        return run

    def loss_of(scores: kernels.TokenScores, negative_logp: Tensor) -> Tensor:
        return scores.divergence + 0.1 * inputs.hinge(scores.student_logp, scores.teacher_logp, negative_logp)

    return lambda: inputs.backward(
        kernels.token_loss(inputs.student, head, inputs.teacher, **options, fn=loss_of, side=(inputs.negative_logp,))[0]
    )


def unisd_divergence_only(inputs: Inputs) -> Run:
    """This library without the contrastive term, to see what the term adds."""

    def run() -> None:
        scores = kernels.token_scores(
            inputs.student, inputs.head, inputs.teacher, ids=inputs.ids, divergence=inputs.case.divergence
        )
        inputs.backward(scores.divergence)

    return run


def full(inputs: Inputs) -> Run:
    """Whole logits and the formulas, for the same scores: divergence, both log-probabilities, both entropies."""
    case, ids = inputs.case, inputs.ids[:, None]

    def run() -> None:
        student = (inputs.student @ inputs.head.T).log_softmax(-1)
        student_logp = student.gather(1, ids)[:, 0]
        with torch.no_grad():
            entropy = -(student.exp() * student).sum(-1)
            if case.kind == "logp":
                return
            teacher = (inputs.teacher @ inputs.head.T).log_softmax(-1)
            teacher_logp = teacher.gather(1, ids)[:, 0]
            entropy = -(teacher.exp() * teacher).sum(-1)  # noqa: F841
        if case.divergence == "forward_kl":
            values = (teacher.exp() * (teacher - student)).sum(-1)
        elif case.divergence == "reverse_kl":
            values = (student.exp() * (student - teacher)).sum(-1)
        else:
            mixture = torch.logaddexp(student, teacher) - math.log(2.0)
            of_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
            values = 0.5 * of_teacher + 0.5 * (student.exp() * (student - mixture)).sum(-1)
        if case.kind == "contrastive":
            values = values + 0.1 * inputs.hinge(student_logp, teacher_logp, inputs.negative_logp)
        inputs.backward(values)

    return run


def stacked(inputs: Inputs) -> Run:
    """`full` as divergences are often written: a stack of both, logsumexp over it, and kl_div for every part."""
    case, ids = inputs.case, inputs.ids[:, None]
    kl = partial(torch.nn.functional.kl_div, reduction="none", log_target=True)

    def run() -> None:
        student = (inputs.student @ inputs.head.T).log_softmax(-1)
        with torch.no_grad():
            teacher = (inputs.teacher @ inputs.head.T).log_softmax(-1)
            for log_probs in (student, teacher):
                log_probs.gather(1, ids)
                -(log_probs.exp() * log_probs).sum(-1)
        if case.divergence == "forward_kl":
            values = kl(student, teacher).sum(-1)
        elif case.divergence == "reverse_kl":
            values = kl(teacher, student).sum(-1)
        else:
            log_half = math.log(0.5)
            mixture = torch.logsumexp(torch.stack([student + log_half, teacher + log_half]), dim=0)
            values = 0.5 * kl(mixture, teacher).sum(-1) + 0.5 * kl(mixture, student).sum(-1)
        inputs.backward(values)

    return run


def trl(inputs: Inputs) -> Run:
    """TRL's chunked functions, as its trainers call them."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    head, case = inputs.head, inputs.case

    def logp() -> None:
        with torch.no_grad():
            ChunkedLogProbFunction.apply(inputs.student, head, None, inputs.ids, 1.0, 32768, None, 1.0, ("entropy",))

    def run() -> None:
        divergence, _ = ChunkedDivergenceFunction.apply(
            inputs.student, head, None, inputs.teacher, head.detach(), None, case.beta
        )
        inputs.backward(divergence)

    return logp if case.kind == "logp" else run


def liger(inputs: Inputs) -> Run:
    """Liger's chunked loss, eager: compiling takes longer than these runs."""
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

    labels = torch.where(inputs.mask, inputs.ids, -100)

    def run() -> None:
        LigerFusedLinearJSDFunction.apply(
            inputs.student, inputs.head, inputs.teacher, inputs.head.detach(), labels,
            None, None, 0.0, 1.0, inputs.case.beta, -100, 1.0, False,
        ).backward()  # fmt: skip
        inputs.student.grad = inputs.head.grad = None

    return run


def contenders(case: Case) -> dict[str, Callable[[Inputs], Run]]:
    """By name, the floor first."""
    found: dict[str, Callable[[Inputs], Run]] = {"floor": floor, "unisd": unisd, "full": full}
    if case.kind == "contrastive":
        return {**found, "unisd, divergence only": unisd_divergence_only}
    if case.kind != "logp":
        found["stacked"] = stacked
    if HAS_TRL:
        found["trl"] = trl
    if HAS_LIGER and case.kind != "logp":
        found["liger"] = liger
    return found


def time_case(case: Case, num_rounds: int, clock: Callable[[], float]) -> dict[str, dict[str, float]]:
    """Medians over rounds, and the range, of each contender's seconds and of its ratio to the floor."""
    inputs = Inputs(case)
    runs = {name: make(inputs) for name, make in contenders(case).items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if number:  # the first round is for page faults and for compiling
                seconds[name].append(clock() - start)
    table = {}
    for name, values in seconds.items():
        ratios = [mine / least for mine, least in zip(values, seconds["floor"], strict=True)]
        table[name] = {
            "seconds": statistics.median(values),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return table


def peak_memory(case: Case, name: str) -> float:
    """MiB that one forward and backward pass adds to the resident memory at its peak; Linux, in a fresh process."""
    inputs = Inputs(case)
    run = contenders(case)[name](inputs)
    # Libraries, threads and compiled code are not the loss's memory: a tiny pass brings them in first.
    contenders(case)[name](Inputs(Case(8, 16, 64, case.dtype, case.divergence, case.kind)))()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def memory_table(cases: dict[str, Case]) -> dict[str, dict[str, float]]:
    """Each contender of each case in a process of its own, with the allocator as it is."""
    environment = {name: value for name, value in os.environ.items() if name not in KIND}
    table: dict[str, dict[str, float]] = {}
    for case_name, case in cases.items():
        table[case_name] = {}
        for name in list(contenders(case))[1:]:
            command = [sys.executable, __file__, "--peak-of", json.dumps(asdict(case)), name]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            table[case_name][name] = float(done.stdout)
    return table


def print_times(name: str, table: dict[str, dict[str, float]]) -> None:
    """One line a contender."""
    mine = table["unisd"]["seconds"]
    for contender, row in table.items():
        print(
            f"{name:16} {contender:24} {row['seconds']:8.3f} s   x floor {row['ratio']:5.2f} "
            f"[{row['lowest']:.2f}, {row['highest']:.2f}]   x unisd {row['seconds'] / mine:5.2f}",
            flush=True,
        )


def main() -> None:
    """Measure and print; JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--memory-cases", nargs="+", choices=MEMORY_CASES, default=list(MEMORY_CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine, one thread")
    parser.add_argument("--allocator", choices=["kind", "default"], default="kind")
    parser.add_argument("--only-memory", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        torch.set_num_threads(1)
        print(peak_memory(Case(**json.loads(options.peak_of[0])), options.peak_of[1]))
        return
    if options.allocator == "kind" and "MALLOC_MMAP_MAX_" not in os.environ and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KIND})
    cases = QUICK if options.quick else {name: CASES[name] for name in options.cases}
    figures: dict[str, object] = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    for num_threads in [] if options.only_memory else options.threads:
        torch.set_num_threads(num_threads)
        print(f"{num_threads} thread(s), {options.clock} clock, allocator {options.allocator}, {options.rounds} rounds")
        for name, case in cases.items():
            clock = time.perf_counter if options.clock == "wall" else time.process_time
            table = time_case(case, options.rounds, clock)
            print_times(name, table)
            figures[f"{name}, {num_threads} threads"] = table
    if not options.no_memory and sys.platform == "linux":
        chosen = {"jsd": QUICK["jsd"]} if options.quick else {name: MEMORY_CASES[name] for name in options.memory_cases}
        figures["peak MiB"] = peaks = memory_table(chosen)
        for name, row in peaks.items():
            print(f"{name:16} peak extra MiB: " + ", ".join(f"{each} {value:.0f}" for each, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
