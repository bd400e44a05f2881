"""The loss and the update do not depend on how a step's tokens are split over micro-batches and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.invariant.runs import KINDS, UNEVEN, examples, losses, make_trainer, relative_residual, trainable
from unisd.objective.divergence import Divergence

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["peft", "full"])
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("normalize_weights", [False, True])
def test_batch_times_accumulation_gives_the_same_loss_and_update(
    kind: str, reduction: Any, normalize_weights: bool, tmp_path: Path
) -> None:
    runs = []
    for per_device, accumulation in ((8, 1), (2, 4), (1, 8)):
        trainer = make_trainer(
            tmp_path / f"{per_device}",
            is_peft=kind == "peft",
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
            objective=Divergence(reduction=reduction, normalize_weights=normalize_weights),
        )
        start = trainable(trainer)
        trainer.train()
        runs.append((losses(trainer), trainable(trainer), start))
    whole_losses, whole_end, start = runs[0]
    assert len(whole_losses) == 3
    assert max((whole_end[name] - start[name]).abs().max() for name in start) > 1e-3
    for split_losses, split_end, _ in runs[1:]:
        assert split_losses == pytest.approx(whole_losses, rel=1e-5)
        assert relative_residual(split_end, whole_end, start) <= 1e-5


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of every kind."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--num_cpu_threads_per_process", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "-m", "tests.invariant.runs", str(folder), "4"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_loss_and_update_of_one(kind: str, two_processes: Path, tmp_path: Path) -> None:
    two = torch.load(two_processes / f"{kind}.pt")
    assert two["world"] == 2
    one = make_trainer(tmp_path, **KINDS[kind], per_device_train_batch_size=8)
    start = trainable(one)
    one.train()
    assert two["losses"] == pytest.approx(losses(one), rel=1e-5)
    assert relative_residual(two["end"], trainable(one), start) <= 1e-5


@pytest.mark.parametrize("kind", ["full", "peft"])
def test_two_processes_evaluate_every_row_once(kind: str, two_processes: Path, tmp_path: Path) -> None:
    two = torch.load(two_processes / f"{kind}.pt")["evaluated"]
    one = make_trainer(tmp_path, **KINDS[kind], per_device_train_batch_size=8)
    one.train()
    expected = one.evaluate(examples(UNEVEN))
    assert expected["eval_loss"] > 0
    for name in ("eval_loss", "eval_num_tokens", "eval_divergence"):
        assert two[name] == pytest.approx(expected[name], rel=1e-5)
