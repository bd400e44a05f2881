"""The conventions of the Hugging Face Trainer: precision, checkpointing, accumulation, callbacks, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from tests.tiny import build_tiny_model, build_tiny_tokenizer
from tests.trainer.build import DEFAULTS, build, gradients, logged, lora, parameters, rows
from unisd.args import SelfDistillConfig, checked_arguments
from unisd.teacher import EMATeacher, LiveTeacher
from unisd.trainer import SelfDistillTrainer
from unisd.types import Example, Prompt

KINDS = pytest.mark.parametrize("kind", ["full", "peft"])
BY_ONE: dict[str, Any] = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
"""One step of SGD then subtracts the gradient itself."""


def adapter(kind: str, **options: Any) -> dict[str, Any]:
    return {"peft_config": lora(**options)} if kind == "peft" else {}


def count_layer_calls(trainer: SelfDistillTrainer) -> list[bool]:
    """Grows by one for every forward of the first layer while training; recomputed ones count."""
    model: Any = trainer.model
    layer = model.get_submodule(
        "base_model.model.model.layers.0" if hasattr(model, "peft_config") else "model.layers.0"
    )
    calls: list[bool] = []
    # The first module in it: a recomputation stops once it has all it needs.
    layer.input_layernorm.register_forward_hook(
        lambda module, args, output: calls.append(True) if module.training else None
    )
    return calls


@KINDS
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(tmp_path, kind, use_reentrant):
    found, num_calls = [], []
    for is_checkpointing in (False, True):
        trainer = build(
            tmp_path,
            keywords=adapter(kind, init_lora_weights=False),
            backend="dataset",
            gradient_checkpointing=is_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": use_reentrant},
            **BY_ONE,
        )
        calls = count_layer_calls(trainer)
        found.append(gradients(trainer))
        num_calls.append(len(calls))
    assert num_calls == [1, 2]
    plain, checkpointed = found
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-6)


class SameViews(SelfDistillTrainer):
    """The teacher sees what the student sees, so a live one agrees in every bit unless it was run otherwise."""

    def build_views(self, example: Example) -> dict[str, Prompt]:
        return {"prompt": example.prompt, "privileged": example.prompt}


@KINDS
def test_in_bf16_rollout_teacher_and_student_compute_in_the_same_precision(tmp_path, kind):
    keywords = {**adapter(kind), "teacher": LiveTeacher(), "eval_dataset": rows(3)}
    trainer = build(tmp_path, cls=SameViews, keywords=keywords, bf16=True)
    dtypes: list[torch.dtype] = []
    model: Any = trainer.model
    for name, module in model.named_modules():
        if name.endswith("q_proj"):
            module.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    # Before anything has prepared the model, and in training.
    assert trainer.evaluate()["eval_divergence"] == 0.0
    num_evaluated = len(dtypes)
    trainer.train()
    assert logged(trainer, "divergence") == [0.0]
    assert set(dtypes) == {torch.bfloat16}
    # Two layers: a rollout of 8 tokens, a teacher's pass, a student's pass.
    assert num_evaluated == 2 * (8 + 1 + 1)
    assert len(dtypes) == 2 * num_evaluated
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class Counting(nn.Module):
    """Stands for DDP: its hooks run only when its own forward is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.num_calls = 0

    def forward(self, **inputs: Any) -> Any:
        self.num_calls += 1
        return self.module(**inputs)


@KINDS
def test_the_students_pass_and_only_that_goes_through_the_wrapped_model(tmp_path, kind):
    trainer = build(tmp_path, keywords=adapter(kind))
    model = trainer.model
    assert model is not None
    (batch,), _ = trainer.get_batch_samples(iter([rows(3)]), 1, trainer.args.device)
    wrapper = Counting(model)
    wrapped_loss = trainer.compute_loss(wrapper, batch)
    assert wrapper.num_calls == 1
    torch.testing.assert_close(wrapped_loss, trainer.compute_loss(model, batch), rtol=0, atol=0)


def test_a_compiled_model_learns_what_a_plain_one_does(tmp_path):
    compiled: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "eager"}
    losses, learned = [], []
    for options in ({}, compiled):
        keywords = {"teacher": EMATeacher(decay=0.5, every=1), "eval_dataset": rows(2)}
        trainer = build(tmp_path, max_steps=2, keywords=keywords, **options)
        trainer.train()
        losses.append([*logged(trainer, "loss"), trainer.evaluate()["eval_loss"]])
        learned.append(parameters(trainer))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    torch.testing.assert_close(learned[1], learned[0], rtol=1e-5, atol=1e-6)


def test_a_model_with_a_frozen_adapter_evaluates_and_is_refused_for_training(tmp_path):
    get_peft_model(build_tiny_model(build_tiny_tokenizer()), lora()).save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(build_tiny_model(build_tiny_tokenizer()), str(tmp_path / "adapter"))
    args = SelfDistillConfig(str(tmp_path / "run"), **DEFAULTS)
    trainer = SelfDistillTrainer(loaded, args, rows(4), rows(2), build_tiny_tokenizer())
    assert trainer.evaluate()["eval_loss"] > 0
    with pytest.raises(ValueError, match="no trainable parameter.*is_trainable=True"):
        trainer.train()


class BrokenSecondStep(SelfDistillTrainer):
    """Its loss is NaN in the second step."""

    def reduce(self, token_losses: Any, scores: Any) -> Tensor:
        loss = super().reduce(token_losses, scores)
        return loss * torch.nan if self.state.global_step == 1 else loss


class Snapshots(TrainerCallback):
    """The trainable parameters after every step."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        named = model.named_parameters()
        self.after.append({name: value.detach().clone() for name, value in named if value.requires_grad})


@KINDS
def test_a_step_with_nonfinite_gradients_is_left_out_and_counted(tmp_path, kind, caplog):
    snapshots = Snapshots()
    trainer = build(
        tmp_path,
        cls=BrokenSecondStep,
        keywords={**adapter(kind), "callbacks": [snapshots]},
        max_steps=3,
        optim="adamw_torch",
        weight_decay=0.1,
    )
    trainer.train()
    assert logged(trainer, "nonfinite_steps") == [0.0, 1.0, 0.0]
    first, second, third = snapshots.after
    assert all(torch.equal(second[name], first[name]) for name in first)
    assert all(third[name].isfinite().all() for name in first)
    assert any(not torch.equal(third[name], first[name]) for name in first)
    assert "Step 2 has non-finite gradients and is left out" in caplog.text


def test_the_last_step_of_an_epoch_may_hold_fewer_micro_batches(tmp_path):
    runs = []
    # Six rows: a step of four and a step of two, as 2 + 2 and 2, or whole.
    for per_device, accumulation in ((2, 2), (4, 1)):
        trainer = build(
            tmp_path,
            train=rows(6),
            backend="dataset",
            max_steps=-1,
            num_train_epochs=1,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        runs.append((logged(trainer, "loss"), parameters(trainer)))
    (split, split_end), (whole, whole_end) = runs
    assert len(whole) == 2
    assert split == pytest.approx(whole, rel=1e-5)
    for name, value in whole_end.items():
        torch.testing.assert_close(split_end[name], value, rtol=1e-5, atol=1e-6)


class StopAfter(TrainerCallback):
    """Ends the run after that step, as an interruption would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def test_resuming_with_true_takes_up_the_last_checkpoint(tmp_path):
    def trainer(folder: Path, callbacks: list[TrainerCallback]) -> SelfDistillTrainer:
        options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1}
        keywords = {"callbacks": callbacks, "teacher": EMATeacher(decay=0.5, every=1)}
        return build(folder, keywords=keywords, optim="adamw_torch", **options)

    whole = trainer(tmp_path / "whole", [])
    whole.train()
    trainer(tmp_path / "stopped", [StopAfter(2)]).train()
    resumed = trainer(tmp_path / "stopped", [])
    resumed.train(resume_from_checkpoint=True)
    assert logged(resumed, "loss") == logged(whole, "loss")
    end = parameters(resumed)
    assert all(torch.equal(value, end[name]) for name, value in parameters(whole).items())
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        trainer(tmp_path / "empty", []).train(resume_from_checkpoint=True)


def test_plain_training_arguments_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"args must be a unisd\.SelfDistillConfig, got TrainingArguments"):
        checked_arguments(TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
