"""Self-distillation of a 135M model on a laptop, start to end: probe, train, evaluate, one table, one figure.

Run it with `make quickstart`, or `python examples/quickstart.py [training.seed=1 ...] [--prompts 200]`.
It leaves `summary.json`, `quickstart.png` and the trained adapter in `training.output_dir` (runs/quickstart).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, TrainerCallback

from unisd.config.dump import config_hash
from unisd.config.load import load_config
from unisd.config.schema import RunConfig
from unisd.demo import DemoModel, smollm2
from unisd.probe import ProbedView, ProbeResult, aligned, answer_view, one_line, probe
from unisd.tasks.accuracy import TaskResult
from unisd.tasks.task import last_turn
from unisd.trainer import SelfDistillTrainer

CONFIG = Path(__file__).parent.parent / "configs" / "quickstart.yaml"
MARKER = "quickstart.txt"
"""A file that says a folder holds a quickstart run, finished or not, and may be replaced by the next one."""
LARGEST_P = 0.01
"""The run fails unless the trained model is better than the base with a p-value below this."""
EVAL_EVERY, NUM_QUICK_PROMPTS = 10, 40
"""For the curve only: every so many steps, on so many of the held-out prompts."""
BASELINE = (
    "Supervised fine-tuning on the correct commands is the stronger baseline on this task, where answers are short and "
    "exact: 84.9 % against 74.8 % (five seeds, docs/results/cmd), at 0.43 times the time per step."
)


class Reporter(TrainerCallback):
    """Prints how training goes, and measures the accuracy on a few held-out prompts now and then."""

    def __init__(self, base: ProbeResult) -> None:
        self.base = base
        self.trainer: SelfDistillTrainer | None = None
        self.accuracy: dict[int, TaskResult] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """One short line per step."""
        if logs and "loss" in logs:
            seconds = sum(value for name, value in logs.items() if name.startswith("time/"))
            print(
                f"  step {state.global_step:>3}/{state.max_steps}   loss {logs['loss']:.3f}   "
                f"completion {logs['completions/mean_length']:.1f} tokens   {seconds:.1f} s",
                flush=True,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A point of the accuracy curve."""
        step = state.global_step
        if step % EVAL_EVERY or step == state.max_steps:
            return
        assert self.trainer is not None
        result = graded(answers_of(self.trainer, self.base, name=f"step {step}", limit=NUM_QUICK_PROMPTS))
        self.accuracy[step] = result
        print(f"  accuracy after {step} steps, on {result.n} held-out prompts: {result.text()}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when training helped, 1 when it did not, 2 for a fault in what was given."""
    parser = argparse.ArgumentParser(description="Self-distil a 135M model on this machine.")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of configs/quickstart.yaml")
    parser.add_argument("--prompts", type=int, default=200, metavar="N", help="held-out prompts (default: 200)")
    options = parser.parse_intermixed_args(arguments)
    if options.prompts < 1:
        parser.error(f"--prompts must be at least 1, got {options.prompts}")
    phase("Weights")
    try:
        model = weights_of(options.overrides)
        config = load_config(CONFIG, [*options.overrides, f"model.name_or_path={model.name_or_path}"])
        folder = fresh_folder(Path(config.training["output_dir"]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{model.description}\n{model.name_or_path}")
    return run(config, model, folder, options.prompts)


def weights_of(overrides: Sequence[str]) -> DemoModel:
    """The model an override names, else the demo model."""
    name = "model.name_or_path="
    given = [override.removeprefix(name) for override in overrides if override.startswith(name)]
    return DemoModel(given[-1], given[-1]) if given else smollm2()


def fresh_folder(folder: Path) -> Path:
    """The output folder, emptied; anything that is not an earlier quickstart run is refused."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise ValueError(
                f"training.output_dir: {folder} holds something that is not a quickstart run, and is not replaced. "
                "Move it away, or give training.output_dir=another/folder."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text(
        "A run of examples/quickstart.py. The next one replaces this folder.\n", encoding="utf-8"
    )
    return folder


def run(config: RunConfig, model: DemoModel, folder: Path, num_prompts: int) -> int:
    """Probe, train, evaluate, report."""
    phase("Probe: is there anything to learn?")
    start = time.perf_counter()
    before = probe(config, num_prompts=num_prompts)
    seconds = {"probe": time.perf_counter() - start}
    print(before.text())

    phase("Training on the student's own completions, scored by the frozen model that sees the answer")
    start = time.perf_counter()
    reporter = Reporter(before)
    trainer = trained(config, reporter)
    seconds["training"] = time.perf_counter() - start

    phase("Evaluation on the prompts of the probe")
    start = time.perf_counter()
    after = answers_of(trainer, before, name="self-distilled")
    seconds["evaluation"] = time.perf_counter() - start

    print(results_text(before, after))
    summary = summary_of(before, after)
    summary.update(
        minutes=round(sum(seconds.values()) / 60, 2),
        seconds={part: round(value, 1) for part, value in seconds.items()},
        weights=model.description,
        seed=trainer.args.seed,
        num_steps=trainer.state.global_step,
        seconds_per_step=seconds_per_step(trainer),
        config_hash=config_hash(config),
    )
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    draw(losses, reporter.accuracy, before, after, model, folder / "quickstart.png")
    print(f"\nSaved {folder}/summary.json and {folder}/quickstart.png after {summary['minutes']:.1f} minutes.")
    return exit_code(before, after)


def trained(config: RunConfig, reporter: Reporter) -> SelfDistillTrainer:
    """The trainer after training; the adapter is saved."""
    trainer = SelfDistillTrainer.from_config(config)
    print(trainer.plan.text())
    reporter.trainer = trainer
    trainer.add_callback(reporter)
    for noisy in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noisy)
    trainer.train()
    trainer.save_model()
    return trainer


def answers_of(trainer: SelfDistillTrainer, before: ProbeResult, *, name: str, limit: int | None = None) -> ProbedView:
    """What the model in training makes of the student prompts of the probe, or the first `limit` of them."""
    assert isinstance(trainer.processing_class, PreTrainedTokenizerBase)
    return answer_view(
        trainer.model,
        trainer.processing_class,
        before.task,
        before.examples[:limit],
        before.student.prompts[:limit],
        name=name,
        options=trainer.rollout.options,
    )


def graded(view: ProbedView) -> TaskResult:
    """The result of a view; the quickstart's task always grades."""
    assert view.result is not None
    return view.result


def exit_code(before: ProbeResult, after: ProbedView) -> int:
    """0 when the trained model is better than the base beyond chance; says so otherwise."""
    base, tuned = graded(before.student), graded(after)
    if tuned.accuracy > base.accuracy and tuned.mcnemar(base) < LARGEST_P:
        return 0
    print(f"The trained model is not better than the base at p < {LARGEST_P}: this run did not work.", file=sys.stderr)
    return 1


def results_text(before: ProbeResult, after: ProbedView) -> str:
    """The table, the paired test, the stronger baseline, and three prompts before and after."""
    base, tuned = graded(before.student), graded(after)
    rows = [("", "correct [95 % Wilson]", "readable", "new wording")]
    named = {"base": base, "teacher ceiling (sees the answer)": graded(before.teacher), "self-distilled": tuned}
    is_new = [example.fields.get("is_new_phrasing", False) for example in before.examples]
    for name, result in named.items():
        new = [correct for correct, flag in zip(result.correct, is_new, strict=True) if flag]
        share = f"{100 * sum(new) / len(new):.0f} % of {len(new)}" if new else ""
        rows.append((name, result.text(), f"{100 * result.well_formed_fraction:.0f} %", share))
    gained, lost = tuned.discordant(base)
    paired = (
        f"paired on the same {base.n} prompts: {gained} right only after training, {lost} only before; "
        f"exact McNemar p = {tuned.mcnemar(base):.1e}"
    )
    blocks = ["The first three held-out prompts:"]
    for index, example in enumerate(before.examples[:3]):
        views = (("before", before.student), ("after", after))
        lines = [(f"  {name}", one_line(view.texts[index])) for name, view in views]
        blocks.append(f"{last_turn(example.prompt)}\n{aligned([*lines, ('  answer', str(example.answer))])}")
    return "\n\n".join(["\n".join([aligned(rows), paired]), BASELINE, *blocks])


def summary_of(before: ProbeResult, after: ProbedView) -> dict[str, Any]:
    """The numbers of the table, for machines."""
    results = {"base": graded(before.student), "teacher_ceiling": graded(before.teacher), "tuned": graded(after)}
    summary: dict[str, Any] = {name: {"accuracy": result.accuracy, "n": result.n} for name, result in results.items()}
    summary["mcnemar_p"] = results["tuned"].mcnemar(results["base"])
    summary["intervals"] = {name: list(result.interval()) for name, result in results.items()}
    return summary


def seconds_per_step(trainer: SelfDistillTrainer) -> dict[str, float]:
    """Where the time of an optimizer step goes, on average."""
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    parts = [name for name in steps[0] if name.startswith("time/")]
    return {name.removeprefix("time/"): round(sum(step[name] for step in steps) / len(steps), 2) for name in parts}


def draw(
    losses: list[float],
    curve: dict[int, TaskResult],
    before: ProbeResult,
    after: ProbedView,
    model: DemoModel,
    path: Path,
) -> None:
    """The loss per step, and the accuracy between the base and the teacher's ceiling, with Wilson intervals."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    blue, orange, green = "#0072B2", "#D55E00", "#009E73"  # apart for colour-blind readers too (Okabe and Ito)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(range(1, len(losses) + 1), losses, color=blue)
    left.set(xlabel="optimizer step", ylabel="KL(teacher || student), nats per token", title="Loss", ylim=(0, None))

    points = {0: graded(before.student), **curve, len(losses): graded(after)}
    means = [100 * result.accuracy for result in points.values()]
    bounds = [[100 * bound for bound in result.interval()] for result in points.values()]
    below = [max(0.0, mean - low) for mean, (low, _) in zip(means, bounds, strict=True)]
    above = [max(0.0, high - mean) for mean, (_, high) in zip(means, bounds, strict=True)]
    right.errorbar(list(points), means, [below, above], color=blue, marker="o", capsize=3)
    for view, colour, style, label, side, shift in (
        (before.teacher, green, "--", "teacher ceiling (sees the answer)", "top", -3),
        (before.student, orange, ":", "base", "bottom", 3),
    ):
        height = 100 * graded(view).accuracy
        right.axhline(height, color=colour, linestyle=style)
        right.annotate(
            f"{label}, {height:.0f} %",
            (len(losses), height),
            (0, shift),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment=side,
            color=colour,
        )
    num = graded(after).n
    title = f"Held-out accuracy, n = {num}" + (f" ({min(NUM_QUICK_PROMPTS, num)} in between)" if curve else "")
    right.set(xlabel="optimizer step", ylabel="student correct, %, 95 % Wilson", title=title, ylim=(-2, 102))
    figure.suptitle(model.description, fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def phase(title: str) -> None:
    """A heading in the output."""
    print(f"\n== {title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
