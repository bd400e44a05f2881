"""A run that was stopped and resumed is the uninterrupted run, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.invariant.runs import make_trainer

STEPS = 5
OPTIONS: dict[str, Any] = {
    "backend": "hf",
    "temperature": 1.0,
    "on_policy_fraction": 0.7,
    "max_steps": STEPS,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "log_completions": True,
}


def trained(folder: Path, *, is_peft: bool, resume: Path | None = None) -> Path:
    # 8 rows of 4 a step: the run crosses from one epoch into the next, twice.
    trainer = make_trainer(folder, is_peft=is_peft, num=8, dropout=0.2, **OPTIONS)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return folder


def everything(folder: Path, step: int) -> dict[str, Any]:
    """All tensors of a checkpoint by file and name."""
    checkpoint = folder / f"checkpoint-{step}"
    found: dict[str, Any] = {}
    for file in sorted(checkpoint.iterdir()):
        if file.suffix == ".safetensors":
            found.update({f"{file.name}/{name}": tensor for name, tensor in load_file(file).items()})
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    found.update(
        {f"optimizer/{key}/{name}": value for key, state in optimizer.items() for name, value in state.items()}
    )
    found["rng"] = torch.load(checkpoint / "rng_state.pth", weights_only=False)["cpu"]
    found["scheduler"] = torch.tensor(torch.load(checkpoint / "scheduler.pt", weights_only=True)["_last_lr"])
    return found


def completions(folder: Path, after: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    return [row for row in rows if row["step"] > after]


@pytest.mark.parametrize("kind", ["peft", "full"])
def test_resumed_after_any_step_equals_uninterrupted(kind: str, tmp_path: Path) -> None:
    is_peft = kind == "peft"
    whole = trained(tmp_path / "whole", is_peft=is_peft)
    want = everything(whole, STEPS)
    assert any(name.startswith("teacher.safetensors") for name in want)
    assert any(name.startswith("optimizer/") for name in want)
    for stopped in range(1, STEPS):
        resumed = trained(tmp_path / f"from{stopped}", is_peft=is_peft, resume=whole / f"checkpoint-{stopped}")
        got = everything(resumed, STEPS)
        assert got.keys() == want.keys()
        different = [name for name in want if not torch.equal(got[name], want[name])]
        assert not different, f"after step {stopped}: {different[:5]}"
        assert completions(resumed, stopped) == completions(whole, stopped)


def test_a_checkpoint_without_its_teacher_is_refused(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", is_peft=True)
    (folder / "checkpoint-2" / "teacher.json").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-2 holds no teacher"):
        trained(tmp_path / "again", is_peft=True, resume=folder / "checkpoint-2")
