"""One run of a study, as its process does it: train, evaluate, write results."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from unisd.config.dump import CONFIG_FILE, config_hash
from unisd.config.load import load_config
from unisd.config.schema import EvalSection, RunConfig
from unisd.diagnostics import signals
from unisd.evaluate.provenance import facts_of
from unisd.evaluate.results import RESULTS_FILE, Results
from unisd.evaluate.retention import BaseModel
from unisd.evaluate.run import evaluate, evaluate_checkpoint
from unisd.evaluate.target import moves_the_base
from unisd.objective.clip import default_components
from unisd.objects import eval_tasks, model_of
from unisd.scoring.plan import Plan
from unisd.study.grid import TOKENIZER_FILES
from unisd.study.record import TrainingRecord, mechanisms_of, median_seconds
from unisd.study.schema import Evaluation
from unisd.train import run as train
from unisd.trainer import SelfDistillTrainer

ORDER_FILE = "order.json"
"""What the process of a run is asked to do; beside it lies the configuration, `unisd.yaml`."""
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "checkpoint-*")
"""What is deleted from the training folder after the evaluation."""


@dataclass(frozen=True)
class Order:
    """What one process does."""

    variant: str
    seed: int | None
    """Null: nothing is trained, the model before training is measured."""
    evaluation: Evaluation
    keep_models: bool
    num_parallel: int
    num_threads: int
    has_default_components: bool = False
    """The run names none; `unisd.yaml`, which is resolved, does not tell."""

    def save(self, folder: Path) -> None:
        """Into the folder of the run."""
        (folder / ORDER_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Order:
        """From the folder of the run."""
        fields = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
        return cls(**{**fields, "evaluation": Evaluation(**fields["evaluation"])})


def main(folder: Path) -> None:
    """Do what the folder's order says; `results.json` is written last and says that the run is finished."""
    order = Order.load(folder)
    if order.seed is None:
        results = evaluate_checkpoint(
            str(folder / CONFIG_FILE),
            with_teacher=order.evaluation.teacher,
            general_text=order.evaluation.general_text,
        )
    else:
        results = _train_and_evaluate(folder, order)
    results.save(folder / RESULTS_FILE)


def _train_and_evaluate(folder: Path, order: Order) -> Results:
    assert order.seed is not None
    config = load_config(folder / CONFIG_FILE)
    if order.has_default_components:
        config = replace(config, components=tuple(default_components(config.objective)))
    start = time.perf_counter()
    trainer = train(_with_few_held_out(config))
    seconds = time.perf_counter() - start
    results = evaluate(
        trainer.model,
        trainer.processing_class,  # pyright: ignore[reportArgumentType]
        eval_tasks(config),
        options=trainer.args,  # pyright: ignore[reportArgumentType]
        demonstration=config.contexts.privileged,
        limit=config.eval.limit,
        base=_base(config, trainer) if order.evaluation.retention else None,
        general_text=order.evaluation.general_text,
        facts=facts_of(trainer.model, name_or_path=config.model.name_or_path),
        config_hash=config_hash(config),
    )
    _record(order, config, trainer, seconds).save(folder)
    if not order.keep_models:
        delete_model(Path(str(trainer.args.output_dir)))
    return results


def _with_few_held_out(config: RunConfig) -> RunConfig:
    """With as many held-out prompts in training as `examples.json` shows: the end is measured here, on all of them.

    A run that asks for a curve keeps what it evaluates on.
    """
    if config.eval.every is not None or config.training.get("eval_strategy", "no") != "no":
        return config
    num = config.eval.examples
    return replace(config, eval=EvalSection(tasks=(), limit=max(1, num), examples=num))


def _base(config: RunConfig, trainer: SelfDistillTrainer) -> BaseModel:
    name = config.model.name_or_path
    if config.peft is not None and not moves_the_base(config.peft):
        return BaseModel(f"{name} (adapter off)")
    return BaseModel(name, model_of(config).to(trainer.args.device).eval())  # pyright: ignore[reportArgumentType]


def _record(order: Order, config: RunConfig, trainer: SelfDistillTrainer, seconds: float) -> TrainingRecord:
    history: list[dict[str, Any]] = [dict(entry) for entry in trainer.state.log_history]
    assert order.seed is not None
    return TrainingRecord(
        variant=order.variant,
        seed=order.seed,
        num_steps=trainer.state.global_step,
        seconds=round(seconds, 1),
        seconds_per_step=median_seconds(history),
        passes_per_step=passes_per_step(trainer.plan, config),
        num_parallel=order.num_parallel,
        num_threads=order.num_threads,
        plan=trainer.plan.text(),
        inert=tuple(trainer.diagnostics.inert),
        signs=tuple(signals(history)),
        mechanisms=mechanisms_of(history, trainer.components),
        history=history,
    )


def passes_per_step(plan: Plan, config: RunConfig) -> float:
    """Forward passes of one optimizer step: those of the plan for every micro-batch, a gated one by its share."""
    shares = {context: gate.fraction for context, gate in config.contexts.gates.items()}
    per_batch = sum(one.count * shares.get(one.context, 1.0) for one in plan.passes)
    return per_batch * config.training.get("gradient_accumulation_steps", 1)


def delete_model(folder: Path) -> None:
    """Weights, checkpoints and the tokenizer, of no use without them, of a training folder; all else stays."""
    for pattern in (*WEIGHTS, *TOKENIZER_FILES):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
