"""A training run from its configuration: plan, training, and what is left in the output folder. Read this first."""

from __future__ import annotations

import json
from pathlib import Path

from unisd.config.check import check_training
from unisd.config.dump import CONFIG_FILE
from unisd.config.schema import RunConfig
from unisd.token_maps.keep import ExampleKeeper
from unisd.trainer import SelfDistillTrainer

METRICS_FILE = "metrics.json"


def run(config: RunConfig, *, resume: str | bool = False) -> SelfDistillTrainer:
    """Train as the configuration says; returns the trainer with the trained model in `trainer.model`.

    Leaves in `training.output_dir`: the model (or adapter) and tokenizer, checkpoints, the resolved configuration
    (`unisd.yaml`), the plan, log history and final evaluation (`metrics.json`), a model card, and for `unisd report`
    (`examples.json`) the answers to `eval.examples` prompts before and after training.
    """
    resume = resume or config.training.get("resume_from_checkpoint") or False
    check_training(config, resume=resume)
    trainer = SelfDistillTrainer.from_config(config)
    print(trainer.plan.text(), flush=True)
    folder = Path(str(trainer.args.output_dir))
    is_main = trainer.is_world_process_zero()
    if is_main:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(str(trainer.resolved_config), encoding="utf-8")
    keeper = ExampleKeeper.start(trainer, config, config.eval.examples) if is_main and config.eval.examples else None
    trainer.train(resume_from_checkpoint=resume or None)
    final = trainer.evaluate() if trainer.eval_dataset is not None else trainer.task_accuracies()
    trainer.save_model()
    if is_main:
        left = {
            "final": final,
            "inert": trainer.diagnostics.inert,
            "warnings": trainer.diagnostics.warnings,
            "plan": trainer.plan.text(),
            "history": trainer.state.log_history,
        }
        (folder / METRICS_FILE).write_text(json.dumps(left, indent=1), encoding="utf-8")
        trainer.create_model_card()
        if keeper is not None:
            keeper.save(trainer, folder)
    return trainer
