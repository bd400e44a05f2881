"""Which weights score: base, live and EMA, under LoRA and full fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.teacher.students import IDS, logits, student, teacher_logits, train
from unisd.teacher import TEACHERS, BaseTeacher, EMATeacher, LiveTeacher, Teacher
from unisd.teacher.shadow import Shadow, trainable_parameters
from unisd.teacher.teacher import scoring_with

STUDENTS = ["full", "lora", "trained_lora"]


def started(teacher: Teacher, model: nn.Module) -> Teacher:
    teacher.start(model)
    return teacher


@pytest.mark.parametrize("kind", STUDENTS)
def test_ema_moves_the_teacher_by_its_share_of_the_students_way(kind: str) -> None:
    model = student(kind)
    teacher = EMATeacher(decay=0.75, every=1)
    teacher.start(model)
    before = {name: parameter.clone() for name, parameter in trainable_parameters(model).items()}
    base = teacher_logits(teacher, model)
    train(model, by=1.0)
    teacher.update(model, 1)
    for name, start in before.items():
        torch.testing.assert_close(teacher.shadow.tensors[name], start + 0.25)
    assert (teacher_logits(teacher, model) - base).abs().max() > 0.1
    teacher.update(model, 2)
    for name, start in before.items():
        torch.testing.assert_close(teacher.shadow.tensors[name], start + 1 - 0.75**2)


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_decay_of_one_is_the_base_and_of_zero_the_live_student(kind: str) -> None:
    model = student(kind)
    still, copying = started(EMATeacher(decay=1.0, every=1), model), started(EMATeacher(decay=0.0, every=1), model)
    base, live = started(BaseTeacher(), model), started(LiveTeacher(), model)
    start = logits(model)
    for step in (1, 2):
        train(model)
        assert torch.equal(teacher_logits(live, model), logits(model))
        assert not torch.equal(teacher_logits(copying, model), logits(model))
        for teacher in (still, copying):
            teacher.update(model, step)
        assert torch.equal(teacher_logits(copying, model), logits(model))
        assert torch.equal(teacher_logits(still, model), start)
        assert torch.equal(teacher_logits(base, model), start)
    assert (logits(model) - start).abs().max() > 0.1


def test_ema_moves_every_so_many_steps() -> None:
    model = nn.Linear(1, 1, bias=False)
    teacher = EMATeacher(decay=0.0, every=3)
    teacher.start(model)
    seen = []
    for step in range(1, 8):
        model.weight.data.fill_(step)
        teacher.update(model, step)
        seen.append(float(teacher.shadow.tensors["weight"]))
    assert seen[2:] == [3.0, 3.0, 3.0, 6.0, 6.0]
    assert seen[0] == seen[1]


def test_the_float32_average_of_a_bfloat16_student_moves_where_bfloat16_would_not() -> None:
    model = nn.Linear(1, 1, bias=False).bfloat16()
    model.weight.data.fill_(1.0)
    teacher = EMATeacher(decay=0.999, every=1)
    teacher.start(model)
    model.weight.data.fill_(1 + 2**-7)  # the next bfloat16 number
    stuck = torch.ones(1, dtype=torch.bfloat16)
    for step in range(1, 1001):
        teacher.update(model, step)
        stuck.mul_(0.999).add_(model.weight.data[0], alpha=0.001)
    assert stuck == 1.0
    torch.testing.assert_close(teacher.shadow.tensors["weight"], torch.tensor([[1 + 2**-7 * (1 - 0.999**1000)]]))
    # More than half of the way: the teacher computes with the student's number by now.
    with teacher.weights(model):
        assert model.weight.dtype == torch.bfloat16
        assert model.weight == 1 + 2**-7


def test_the_base_of_a_new_adapter_is_the_model_without_it_and_keeps_no_copy() -> None:
    model = student("lora")
    teacher = started(BaseTeacher(), model)
    train(model)
    assert torch.equal(teacher_logits(teacher, model), logits(student("full")))
    assert teacher.state() == ({}, {})


@pytest.mark.parametrize("options", [{}, {"init_lora_weights": "pissa"}], ids=["trained", "pissa"])
def test_the_base_of_an_adapter_that_changes_the_model_is_a_copy_of_the_adapter(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = student("trained_lora", **options)
    start = logits(model)
    teacher = started(BaseTeacher(), model)
    # Two layers, r = 2: q_proj 2 (32 + 32) and down_proj 2 (64 + 32).
    assert "keeps a float32 copy of the trainable parameters (640)" in caplog.text
    train(model)
    assert torch.equal(teacher_logits(teacher, model), start)
    assert isinstance(model, PeftModel)
    with model.disable_adapter():
        assert (logits(model) - start).abs().max() > 1e-3


def test_the_base_stays_where_biases_outside_the_adapter_are_trained() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = AutoConfig.for_model("qwen2", num_hidden_layers=1, num_key_value_heads=2, **sizes)
    model = get_peft_model(AutoModelForCausalLM.from_config(config), LoraConfig(target_modules=["q_proj"], bias="all"))
    start = logits(model)
    teacher = started(BaseTeacher(), model)
    train(model)
    assert torch.equal(teacher_logits(teacher, model), start)


@pytest.mark.parametrize("teacher_kind", TEACHERS)
@pytest.mark.parametrize("kind", STUDENTS)
def test_afterwards_the_student_is_as_it_was_also_when_scoring_failed(kind: str, teacher_kind: str) -> None:
    model = student(kind)
    frozen = next(iter(trainable_parameters(model).values()))
    frozen.requires_grad_(False)
    teacher = started(TEACHERS[teacher_kind](), model)
    assert not frozen.requires_grad  # start() looks at the adapter's effect
    train(model)
    model.train()
    modules = list(model.modules())
    modules[5].eval()

    def everything() -> list[Any]:
        named = [(name, id(one), one.data_ptr(), one.requires_grad) for name, one in model.named_parameters()]
        return [*named, *(module.training for module in modules)]

    before, own = everything(), logits(model.eval())
    model.train()
    modules[5].eval()
    teacher_logits(teacher, model)
    assert everything() == before
    with pytest.raises(RuntimeError, match="out of memory"), scoring_with(teacher, model):
        raise RuntimeError("out of memory")
    assert everything() == before
    assert torch.is_grad_enabled()
    assert torch.equal(logits(model.eval()), own)


@pytest.mark.parametrize("teacher_kind", TEACHERS)
def test_a_teacher_scores_without_dropout_and_without_gradient(teacher_kind: str) -> None:
    model = student("lora", lora_dropout=0.9)
    teacher = started(TEACHERS[teacher_kind](), model)
    train(model)
    model.train()
    first, second = teacher_logits(teacher, model), teacher_logits(teacher, model)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not torch.equal(logits(model), logits(model))  # the student's own dropout is still on


def test_under_autocast_the_student_does_not_compute_with_the_teachers_weights() -> None:
    model = student("full")
    teacher = started(EMATeacher(), model)
    train(model)

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    with autocast():
        teacher_alone = teacher_logits(teacher, model)
    with autocast():
        alone = model(input_ids=IDS).logits
    with autocast():
        between = [model(input_ids=IDS).logits, teacher_logits(teacher, model), model(input_ids=IDS).logits]
    assert torch.equal(between[0], alone)
    assert torch.equal(between[1], teacher_alone)
    assert torch.equal(between[2], alone)


def test_distances_are_relative_to_what_they_are_measured_from() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[3.0, 4.0]])
    teacher = EMATeacher(decay=0.5, every=1)
    teacher.start(model)
    model.weight.data = torch.tensor([[3.0, 0.0]])
    teacher.update(model, 1)  # the teacher at (3, 2)
    assert teacher.metrics(model) == pytest.approx(
        {"teacher/num_updates": 1, "teacher/distance_to_student": 2 / 3, "teacher/distance_to_base": 2 / 5}
    )
    assert Shadow({"weight": torch.tensor([3.0, 4.0])}).distance_to({"weight": torch.zeros(2)}) == 5.0
    assert LiveTeacher().metrics(model) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.5}, "teacher.decay must lie between 0 and 1, got 1.5"),
        ({"decay": -0.1}, "got -0.1"),
        ({"decay": float("nan")}, "got nan"),
        ({"every": 0}, "teacher.every must be at least 1, got 0"),
    ],
)
def test_an_average_without_meaning_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMATeacher(**options)
