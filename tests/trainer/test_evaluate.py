"""`evaluate()`: comparable with training, at any time, on several data sets, and with the accuracy of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from tests.trainer.build import build, logged, parameters, rows
from unisd.objective.divergence import Divergence
from unisd.tasks.task import Grade
from unisd.types import Example, Prompt


@dataclass
class Schedule:
    """A task on which the student has this accuracy at its first evaluation, its second, and so on."""

    accuracies: list[float]
    name: str = "schedule"
    num_graded: int = field(default=0, init=False)

    def train_examples(self, limit: int | None = None) -> list[Example]:
        return rows(limit or 4)

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        return rows(limit or 4)

    def grade(self, example: Example, completion: str) -> Grade:
        evaluation, question = divmod(self.num_graded, 4)
        self.num_graded += 1
        return Grade(question < 4 * self.accuracies[evaluation])

    def negative_request(self, example: Example) -> Prompt:
        return example.prompt


OBJECTIVES = {
    "token_mean": Divergence(),
    "sequence_mean": Divergence(reduction="sequence_mean"),
    "reference": Divergence(reference=True),
}


@pytest.mark.parametrize("reduction", OBJECTIVES)
def test_the_evaluation_loss_is_the_training_loss_whatever_the_batch_size(tmp_path, reduction):
    train = rows(6)

    def trainer(eval_batch_size: int) -> Any:
        return build(
            tmp_path,
            train=train,
            keywords={"eval_dataset": train, "objective": OBJECTIVES[reduction]},
            backend="dataset",
            per_device_train_batch_size=6,
            per_device_eval_batch_size=eval_batch_size,
        )

    trained = trainer(6)
    trained.train()
    (expected,) = logged(trained, "loss")
    assert expected > 0.01
    for eval_batch_size in (1, 4, 6):
        assert trainer(eval_batch_size).evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluating_before_training_leaves_no_trace_and_after_it_shows_what_was_learned(tmp_path):
    def trained(*, is_evaluated: bool) -> tuple[Any, list[float]]:
        trainer = build(tmp_path, keywords={"eval_dataset": rows(6)}, max_steps=3, learning_rate=0.5)
        before = [trainer.evaluate()["eval_loss"] for _ in range(2)] if is_evaluated else []
        trainer.train()
        return trainer, before

    looked, before = trained(is_evaluated=True)
    plain, _ = trained(is_evaluated=False)
    assert before[0] == before[1] > 0
    for name in ("loss", "divergence", "num_tokens"):
        assert logged(looked, name) == logged(plain, name)
    assert all(torch.equal(mine, parameters(plain)[name]) for name, mine in parameters(looked).items())
    assert plain.evaluate()["eval_loss"] != before[0]


def test_each_of_several_data_sets_has_its_own_metrics_and_a_task_is_asked_once(tmp_path):
    task = Schedule([0.25])
    sets = {"long": rows(6), "short": rows(2)}
    trainer = build(tmp_path, keywords={"eval_dataset": sets, "eval_tasks": [task]}, backend="dataset")
    metrics = trainer.evaluate()
    for name, examples in sets.items():
        alone = build(tmp_path, keywords={"eval_dataset": examples}, backend="dataset").evaluate()
        assert metrics[f"eval_{name}_loss"] == pytest.approx(alone["eval_loss"], rel=1e-6)
        assert metrics[f"eval_{name}_num_tokens"] == alone["eval_num_tokens"]
    assert metrics["eval_schedule_accuracy"] == 0.25
    assert task.num_graded == 4


def test_compute_metrics_gets_the_completions_and_which_of_their_tokens_count(tmp_path):
    seen = []

    def compute_metrics(prediction: Any) -> dict[str, float]:
        seen.append((prediction.predictions, prediction.label_ids))
        return {"share": 0.5}

    keywords = {"eval_dataset": rows(3), "compute_metrics": compute_metrics}
    trainer = build(
        tmp_path, keywords=keywords, backend="dataset", num_loss_tokens_to_skip=1, per_device_eval_batch_size=2
    )
    assert trainer.evaluate()["eval_share"] == 0.5
    ((ids, mask),) = seen
    # "re", "blu" and "gree", with the end of the turn (2); the second batch holds the last row alone.
    expected = [[*trainer.processing_class.encode(text), 2] for text in ("re", "blu", "gree")]
    assert [row[row != -100].tolist() for row in ids] == expected
    assert [row[row != -100].tolist() for row in mask] == [[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 1, 1, 1]]


def test_task_accuracy_picks_the_best_checkpoint_which_is_loaded_at_the_end(tmp_path):
    task = Schedule([0.5, 1.0, 0.25])
    trainer = build(
        tmp_path,
        keywords={"eval_dataset": rows(2), "eval_tasks": [task], "eval_limit": 4},
        max_steps=3,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="schedule_accuracy",
    )
    at_step: dict[int, Any] = {}

    class Remember(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            at_step[state.global_step] = parameters(trainer)

    trainer.add_callback(Remember())
    trainer.train()
    assert logged(trainer, "eval_schedule_accuracy") == [0.5, 1.0, 0.25]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    end = parameters(trainer)
    assert all(torch.equal(end[name], at_step[2][name]) for name in end)
    assert any(not torch.equal(end[name], at_step[3][name]) for name in end)


@dataclass
class LongAnswer(Schedule):
    """The demonstration of its second row is over budget."""

    def eval_examples(self, limit: int | None = None) -> list[Example]:
        first, second, *rest = super().eval_examples(limit)
        return [first, replace(second, privileged_context="long " * 40), *rest]


def test_rows_of_a_task_over_budget_are_left_out_or_refused_before_training(tmp_path):
    task = LongAnswer([0.5])
    trainer = build(
        tmp_path, keywords={"eval_tasks": [task]}, max_teacher_prompt_length=100, on_overflow="drop", backend="dataset"
    )
    # Two right answers to the three questions that are left.
    assert trainer.evaluate(rows(2))["eval_schedule_accuracy"] == 2 / 3
    with pytest.raises(ValueError, match="^schedule data: row 1: The view 'privileged' has .* tokens"):
        build(tmp_path, keywords={"eval_tasks": [task]}, max_teacher_prompt_length=100)


def test_callbacks_see_the_task_accuracy(tmp_path):
    trainer = build(
        tmp_path,
        keywords={
            "eval_dataset": rows(2),
            "eval_tasks": [Schedule([0.5, 0.5, 0.5, 0.5])],
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=2)],
        },
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_schedule_accuracy",
    )
    trainer.train()
    # The first is the best, and the next two are no better.
    assert trainer.state.global_step == 3
