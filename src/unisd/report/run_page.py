"""The page of one run."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from unisd.evaluate.results import Results
from unisd.report.parts import (
    NOT_MECHANISMS,
    Page,
    curve_charts,
    example_title,
    heat_maps,
    mechanism_table,
    question_of,
    source_note,
)
from unisd.report.read import RunRecord
from unisd.token_maps.record import KeptExamples

NO_CONFIG = "not kept"


def run_page(run: RunRecord, *, max_tokens: int) -> Page:
    """What one training shows, with heat maps of `max_tokens` tokens at most."""
    kept = [("", run.examples)] if run.examples else []
    maps = heat_maps(kept, max_tokens)
    steps = f"after {run.num_steps} steps"
    examples = run.examples.examples if run.examples else ()
    questions = [question_of(example_title(number), one, steps) for number, one in enumerate(examples)]
    return Page(
        title=run.name,
        kind="Run",
        facts=_facts(run),
        honesty=run_honesty(run),
        inert=run.inert,
        signs=run.signs,
        curves=curve_charts({run.name: [run]}),
        questions=questions,
        questions_note=source_note([run.examples]) if run.examples else "",
        maps=maps.maps,
        maps_legend=maps.legend,
        maps_note=maps.note,
        mechanisms=mechanism_table({"mean over the log, teacher's last": _mechanisms(run)}),
        plans=[("", run.plan)] if run.plan else [],
        configs=[("", run.config_text)] if run.config_text else [],
    )


def accuracy_texts(run: RunRecord) -> list[str]:
    """Accuracies at the end, with intervals where the number of prompts is known."""
    if run.results is not None:
        return [
            f"{task.name} {100 * task.accuracy:.1f} % [{100 * task.accuracy_interval[0]:.1f}, "
            f"{100 * task.accuracy_interval[1]:.1f}] of {task.num_items} prompts"
            for task in run.results.tasks
        ]
    return [
        f"{name.removeprefix('eval_').removesuffix('_accuracy')} {100 * value:.1f} %"
        for name, value in run.final.items()
        if name.endswith("_accuracy")
    ]


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    config = run.config
    objective, teacher = _section(config, "objective"), _section(config, "teacher")
    components = ", ".join(str(one["type"]) for one in config.get("components") or [] if "type" in one)
    facts = [
        ("model", str(_section(config, "model").get("name_or_path", NO_CONFIG))),
        ("teacher", str(teacher.get("kind", NO_CONFIG))),
        ("objective", str(objective.get("divergence", NO_CONFIG))),
        ("components", components or "none"),
        ("optimizer steps", str(run.num_steps)),
        ("accuracy at the end", "; ".join(accuracy_texts(run)) or "not measured"),
    ]
    if run.examples and all(one.after.is_correct is not None for one in run.examples.examples):
        facts.append(("the kept examples", kept_sentence(run.examples)))
    return [*facts, *[(name, f"{run.final[key]:.4g}") for key, name in _FINAL.items() if key in run.final]]


_FINAL = {"eval_loss": "held-out loss", "eval_divergence": "held-out divergence, nats"}


def kept_sentence(kept: KeptExamples) -> str:
    """How many of the kept examples were right before and after; too few to compare anything."""
    num_before, num_after = (
        sum(bool(answer.is_correct) for answer in answers)
        for answers in ([one.before for one in kept.examples], [one.after for one in kept.examples])
    )
    return f"{num_before} right before, {num_after} after, of {len(kept.examples)}"


def run_honesty(run: RunRecord) -> list[str]:
    """What was not run, did nothing, or is not known."""
    config = run.config
    said = [weights_sentence(_section(config, "model"))]
    seed = _section(config, "training").get("seed", "the default")
    said.append(f"One seed ({seed}). Another may differ by as much as a component brings; unisd study runs several.")
    said.append(inert_sentence(run))
    accuracies = accuracy_texts(run)
    limit = _section(config, "eval").get("limit")
    if not accuracies:
        said.append("No accuracy was measured.")
    elif run.results is None:
        at_most = f" on {limit} prompts at most" if limit else ""
        said.append(f"Accuracy was measured once{at_most}, greedy, without an interval; unisd eval gives one.")
    said += measured_sentences(run.results)
    said.append("No other recipe was run beside this one: nothing here says that supervised fine-tuning is worse.")
    if run.examples is None:
        said.append("No examples were kept: answers before training and heat maps are missing.")
    return said


def weights_sentence(model: Mapping[str, Any]) -> str:
    """Which weights, as far as the configuration says."""
    name = model.get("name_or_path")
    if name is None:
        return "Which weights were trained is not known: the resolved configuration is missing."
    gguf = model.get("gguf_file")
    revision = model.get("revision")
    extra = (f", dequantised from {gguf}" if gguf else "") + (f", revision {revision}" if revision else "")
    return f"Weights: {name}{extra}, dtype {model.get('dtype', 'auto')}. Where they come from is as good as that name."


def inert_sentence(run: RunRecord) -> str:
    """What the diagnostics found dead, or that they found nothing."""
    if run.inert:
        return f"Inert: {', '.join(dict.fromkeys(sentence.partition(':')[0] for sentence in run.inert))}."
    if not run.history:
        return "Whether a part was inert is not known: nothing was logged."
    return f"No part was found inert over {run.num_steps} steps. That a part acted does not say that it helped."


def measured_sentences(results: Results | None, *, is_base: bool = False) -> list[str]:
    """What an evaluation left out; `is_base` where it is of the model before training."""
    if results is None:
        return ["Not measured: the model before training on the same prompts, the teacher's ceiling, retention."]
    lacks = [
        name
        for name, is_there in (
            ("the model before training on the same prompts", is_base),
            ("the teacher's ceiling", any(task.teacher is not None for task in results.tasks)),
            ("retention (what the model could do before)", results.retention is not None),
            ("perplexity of general text", results.general_text is not None),
        )
        if not is_there
    ]
    cut = [f"{100 * task.truncated_share:.0f} % on {task.name}" for task in results.tasks if task.truncated_share > 0]
    said = [f"Not measured: {', '.join(lacks)}."] if lacks else []
    return [*said, *([f"Answers cut off at the length limit: {', '.join(cut)}."] if cut else [])]


def _mechanisms(run: RunRecord) -> dict[str, float]:
    """How much each part acted: means over the training log, of the teacher the last value."""
    found = {}
    for name in run.metrics:
        values = list(run.series(name).values())
        if values and "/" in name and not name.startswith(NOT_MECHANISMS):
            found[name] = values[-1] if name.startswith("teacher/") else fmean(values)
    return found


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}
