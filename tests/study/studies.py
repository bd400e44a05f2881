"""A recipe and studies of it that the tiny model runs in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE: dict[str, Any] = {
    "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"},
    "data": {"train": "cmd", "eval": "cmd", "limit": 4, "max_prompt_length": 400, "max_teacher_prompt_length": 800},
    "contexts": {"privileged": {"style": "turns", "repeats": 1}},
    "objective": {"divergence": "forward_kl"},
    "components": [],
    "rollout": {"max_completion_length": 4},
    "training": {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    },
    "eval": {"limit": 4},
}
"""Self-distillation in its plain form; `model` is left to the caller."""


def write_recipe(folder: Path, model: Path, name: str = "recipe.yaml") -> Path:
    """The recipe on the model of that folder."""
    # JSON is YAML, and has no aliases.
    path = folder / name
    path.write_text(json.dumps({"model": {"name_or_path": str(model)}, **RECIPE}))
    return path


def write_study(folder: Path, study: dict[str, Any], name: str = "study.yaml") -> Path:
    """The study as a file."""
    path = folder / name
    path.write_text(json.dumps(study))
    return path
