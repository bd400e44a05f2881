"""What can be seen of a run from outside; each takes the overrides of one run and gives something to compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisd.config.load import load_config
from unisd.objects import model_of
from unisd.token_maps.record import EXAMPLES_FILE, KeptExamples
from unisd.train import run
from unisd.trainer import SelfDistillTrainer

Overrides = dict[str, Any]


def start(overrides: Overrides) -> SelfDistillTrainer:
    """The trainer of `run.yaml` with these overrides."""
    return SelfDistillTrainer.from_config(load_config("run.yaml", overrides))


def trained(overrides: Overrides) -> SelfDistillTrainer:
    """The same after its training."""
    trainer = start(overrides)
    trainer.train()
    return trainer


def losses(overrides: Overrides) -> list[float]:
    """The loss of each step; differences of the sixth digit are rounding."""
    return [float(f"{entry['loss']:.5g}") for entry in trained(overrides).state.log_history if "loss" in entry]


def evaluations(overrides: Overrides) -> list[set[str]]:
    """The names of the metrics of every evaluation, and of a last one."""
    trainer = trained(overrides)
    trainer.evaluate()
    names = [{name for name in entry if name.startswith("eval_")} for entry in trainer.state.log_history]
    return [found for found in names if "eval_loss" in found]


def accuracy(overrides: Overrides) -> float:
    """Of the task `local`, before training."""
    return start(overrides).task_accuracy(start(overrides).eval_tasks[0])


def _first_step(overrides: Overrides) -> Any:
    trainer = start(overrides)
    rows: Any = trainer.train_dataset
    (batch,), _ = trainer.get_batch_samples(iter([list(rows)[:4]]), 1, trainer.args.device)
    return trainer, batch


def completions(overrides: Overrides) -> list[list[int]]:
    """Token ids of the first step's completions."""
    _, batch = _first_step(overrides)
    return [completion.ids for completion in batch.completions]


def num_loss_tokens(overrides: Overrides) -> int:
    """Of the first step."""
    _, batch = _first_step(overrides)
    return batch.counts.num_tokens


def views(overrides: Overrides) -> dict[str, str]:
    """The first row as each role sees it."""
    trainer, batch = _first_step(overrides)
    decode = trainer.processing_class.decode
    return {name: decode(view.ids[0][view.mask[0]]) for name, view in batch.views.items()}


def num_rollout_passes(overrides: Overrides) -> int:
    """Forward passes while the first step's completions are written."""
    trainer = start(overrides)
    calls: list[bool] = []
    model: Any = trainer.model
    model.get_input_embeddings().register_forward_hook(lambda *inputs: calls.append(True))
    rows: Any = trainer.train_dataset
    trainer.get_batch_samples(iter([list(rows)]), 1, trainer.args.device)
    return len(calls)


def logit_widths(overrides: Overrides) -> list[int]:
    """Positions that the model's own head was given, pass by pass."""
    trainer = start(overrides)
    widths: list[int] = []
    model: Any = trainer.model
    model.get_output_embeddings().register_forward_hook(lambda head, inputs, output: widths.append(output.shape[1]))
    trainer.train()
    return widths


def prompts(overrides: Overrides) -> list[tuple[Any, Any]]:
    """Prompt and privileged context of every training row that is left."""
    rows: Any = start(overrides).train_dataset
    return [(row.prompt, row.privileged_context) for row in rows]


def contexts(overrides: Overrides) -> list[tuple[Any, Any]]:
    """Auxiliary and negative contexts of every training row."""
    rows: Any = start(overrides).train_dataset
    return [(row.auxiliary_contexts, row.negative_context) for row in rows]


def num_negatives(overrides: Overrides) -> int:
    """Training rows that have a negative context."""
    return sum(negative is not None for _, negative in contexts(overrides))


def refusal(overrides: Overrides) -> str:
    """What is wrong with the run; nothing where it can start."""
    try:
        start(overrides)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def eval_prompts(overrides: Overrides) -> list[Any]:
    """Prompts of the held-out rows."""
    rows: Any = start(overrides).eval_dataset
    return [row.prompt for row in rows or []]


def num_printed(overrides: Overrides) -> int:
    """Completions kept in the output folder."""
    path = Path(str(trained(overrides).args.output_dir)) / "completions.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def num_kept(overrides: Overrides) -> int:
    """Prompts whose answers a run leaves for the report."""
    folder = Path(str(run(load_config("run.yaml", overrides)).args.output_dir))
    return len(KeptExamples.load(folder).examples) if (folder / EXAMPLES_FILE).exists() else 0


def num_trainable(overrides: Overrides) -> int:
    """Parameters that are trained."""
    model: Any = start(overrides).model
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def model(overrides: Overrides) -> Mapping[str, Any]:
    """The model as it was loaded."""
    loaded = model_of(load_config("run.yaml", overrides))
    return {
        "class": type(loaded).__name__,
        "dtype": loaded.dtype,
        "attention": loaded.config._attn_implementation,
        "layers": loaded.config.num_hidden_layers,
        "first weight": loaded.get_input_embeddings().weight[3, 0].item(),
    }
