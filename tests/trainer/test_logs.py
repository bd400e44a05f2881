"""What a run says about itself: metric names, completions, the model card."""

from __future__ import annotations

import json

import pytest

from tests.trainer.build import build, logged, lora, rows
from unisd.objective import CrossEntropy, DivergenceClip
from unisd.teacher import EMATeacher

COMPLETIONS = {
    "completions/clipped_ratio",
    "completions/max_length",
    "completions/mean_length",
    "completions/min_length",
    "completions/on_policy_ratio",
    "num_tokens",
    "sampler_logp",
}
SCORES = {"divergence", "entropy", "loss/cross_entropy", "loss/divergence"}
STEP = {
    "grad_norm",
    "learning_rate",
    "loss",
    "nonfinite_steps",
    "teacher/distance_to_base",
    "teacher/distance_to_student",
    "time/rollout",
    "time/student",
    "time/teacher",
    "time/update",
}
"""What only a step of training has."""


def test_the_last_step_is_logged_whatever_the_interval(tmp_path):
    trainer = build(tmp_path, max_steps=3, logging_steps=500)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [3]


def test_a_log_has_these_metrics_and_an_evaluation_all_that_are_not_about_a_step(tmp_path):
    trainer = build(
        tmp_path,
        keywords={
            "teacher": EMATeacher(decay=0.5, every=1),
            "components": [DivergenceClip(ceiling=0.5), CrossEntropy(coefficient=0.1)],
            "eval_dataset": rows(2),
        },
    )
    trainer.train()
    trainer.evaluate()
    train, _, evaluation = trainer.state.log_history
    scores = {name for name in train if not name.startswith(("teacher/", "time/"))} - STEP - {"epoch", "step"}
    assert train.keys() >= COMPLETIONS | SCORES | STEP
    assert evaluation.keys() >= {"eval_loss", *(f"eval_{name}" for name in scores)}
    assert not {f"eval_{name}" for name in STEP - {"loss"}} & evaluation.keys()
    assert train["loss"] == pytest.approx(train["loss/divergence"] + train["loss/cross_entropy"], rel=1e-5)
    assert train["loss/divergence"] < train["divergence"]
    assert train["num_tokens"] == 4 * train["completions/mean_length"] == 32
    assert train["teacher/distance_to_base"] > 0
    assert all(train[f"time/{part}"] > 0 for part in ("rollout", "teacher", "student", "update"))


def test_a_log_covers_all_micro_batches_and_steps_since_the_last(tmp_path):
    options = {"backend": "dataset", "max_steps": 2, "learning_rate": 0.0, "per_device_train_batch_size": 2}
    often = build(tmp_path, **options)
    rarely = build(tmp_path, **options, logging_steps=2)
    for trainer in (often, rarely):
        trainer.train()
    sizes, means = logged(often, "num_tokens"), logged(often, "divergence")
    assert len(sizes) == 2
    assert logged(rarely, "num_tokens") == [sum(sizes)]
    mean = sum(size * mean for size, mean in zip(sizes, means, strict=True)) / sum(sizes)
    assert logged(rarely, "divergence") == pytest.approx([mean], rel=1e-5)
    assert logged(rarely, "completions/max_length") == [max(logged(often, "completions/max_length"))]


def test_completions_are_printed_and_kept_when_asked_for(tmp_path, capsys):
    options = {"backend": "dataset", "max_steps": 4, "logging_steps": 2, "num_completions_to_print": 2}
    build(tmp_path / "quiet", **options).train()
    assert "--- completion" not in capsys.readouterr().out
    assert not (tmp_path / "quiet" / "completions.jsonl").exists()

    build(tmp_path / "loud", log_completions=True, **options).train()
    kept = [json.loads(line) for line in (tmp_path / "loud" / "completions.jsonl").read_text().splitlines()]
    assert [row["step"] for row in kept] == [2, 2, 4, 4]
    pairs = {(str(example.prompt), f"{example.completion}<|im_end|>") for example in rows(4)}
    assert {(row["prompt"], row["completion"]) for row in kept} <= pairs
    printed = capsys.readouterr().out
    assert printed.count("--- completion") == 4
    assert all(row["completion"] in printed for row in kept)


def test_the_model_card_says_how_the_model_was_distilled(tmp_path):
    trainer = build(tmp_path, keywords={"peft_config": lora(), "teacher": EMATeacher(decay=0.75)})
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(model_name="tiny")
    card = (tmp_path / "README.md").read_text()
    assert "Self-distillation with unisd" in card
    assert "decay=0.75" in card
    assert "divergence_clip: DivergenceClip(ceiling=10.0" in card
    assert (tmp_path / "adapter_model.safetensors").is_file()
