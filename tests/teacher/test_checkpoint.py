"""The teacher in a checkpoint: back bit for bit, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.teacher.students import student, teacher_logits, train
from unisd.teacher import BaseTeacher, EMATeacher, LiveTeacher


@pytest.mark.parametrize("kind", ["full", "lora", "trained_lora"])
def test_an_average_goes_on_from_a_checkpoint_as_if_uninterrupted(kind: str, tmp_path: Path) -> None:
    model, again = student(kind), student(kind)
    teacher, resumed = EMATeacher(decay=0.9, every=1), EMATeacher(decay=0.9, every=1)
    teacher.start(model)
    train(model, by=0.1)
    teacher.update(model, 1)
    teacher.save(tmp_path)

    resumed.start(again)
    resumed.load(tmp_path)
    train(again, by=0.1)
    assert torch.equal(teacher_logits(resumed, again), teacher_logits(teacher, model))
    for each, its_teacher in ((model, teacher), (again, resumed)):
        train(each, by=0.1)
        its_teacher.update(each, 2)
    mine, theirs = resumed.shadow.tensors, teacher.shadow.tensors
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == torch.float32 for name in theirs)
    assert resumed.metrics(again) == teacher.metrics(model)


@pytest.mark.parametrize("kind", ["full", "lora", "trained_lora"])
def test_the_base_is_taken_from_the_model_the_run_began_with(kind: str, tmp_path: Path) -> None:
    model, again = student(kind), student(kind)
    teacher, resumed = BaseTeacher(), BaseTeacher()
    teacher.start(model)
    train(model)
    teacher.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.json"]
    resumed.start(again)
    resumed.load(tmp_path)
    assert torch.equal(teacher_logits(resumed, again), teacher_logits(teacher, model))


@pytest.mark.parametrize("kind", ["full", "trained_lora"])
def test_a_base_with_other_initial_weights_is_refused(kind: str, tmp_path: Path) -> None:
    teacher, resumed, model = BaseTeacher(), BaseTeacher(), student(kind)
    teacher.start(model)
    teacher.save(tmp_path)
    train(model)
    resumed.start(model)
    with pytest.raises(ValueError, match="other initial weights .* not with one of its checkpoints"):
        resumed.load(tmp_path)


def test_a_single_number_is_part_of_the_initial_weights(tmp_path: Path) -> None:
    class Scale(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

    first, same, other = BaseTeacher(), BaseTeacher(), BaseTeacher()
    first.start(Scale(1.0))
    first.save(tmp_path)
    same.start(Scale(1.0))
    same.load(tmp_path)
    other.start(Scale(2.0))
    with pytest.raises(ValueError, match="other initial weights"):
        other.load(tmp_path)


def test_a_checkpoint_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"holds no teacher \(teacher.json is missing\).*Resume from a checkpoint that unisd"
    ):
        LiveTeacher().load(tmp_path)


def test_a_checkpoint_of_another_kind_of_teacher_is_refused(tmp_path: Path) -> None:
    LiveTeacher().save(tmp_path)
    teacher = EMATeacher()
    teacher.start(student("lora"))
    with pytest.raises(
        ValueError, match="saved with teacher kind 'live', but this run asks for 'ema'. Set teacher.kind: live"
    ):
        teacher.load(tmp_path)


@pytest.mark.parametrize("options", [{"r": 4}, {"target_modules": ["k_proj"]}], ids=["shapes", "names"])
def test_an_average_of_another_model_is_refused_and_nothing_is_taken_over(options: dict, tmp_path: Path) -> None:
    saved, mine = EMATeacher(), EMATeacher()
    saved.start(student("lora", **options))
    saved.save(tmp_path)
    mine.start(student("lora"))
    before = {name: tensor.clone() for name, tensor in mine.shadow.tensors.items()}
    with pytest.raises(ValueError, match="other names or shapes. Resume with the model and the peft section"):
        mine.load(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.shadow.tensors.items())
