"""What may be trained on, how many completions a row gets and who writes them, and which of their tokens count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from tests.trainer.build import build, gradients, logged, parameters, rows
from unisd.trainer import SelfDistillTrainer
from unisd.types import Example, RolloutBatch

CHAT: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Say {word}"}],
        "privileged_context": word,
        "completion": [{"role": "assistant", "content": word}],
        "colour": word,
    }
    for word in ("red", "green", "blue", "gold")
]


class Watched(SelfDistillTrainer):
    """Keeps every training batch."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.batches: list[RolloutBatch] = []
        super().__init__(*args, **keywords)

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], None]:
        batches, _ = super().get_batch_samples(*args)
        self.batches += batches
        return batches, None


def watched(folder: Any, **options: Any) -> Watched:
    trainer = build(folder, cls=Watched, **options)
    assert isinstance(trainer, Watched)
    trainer.train()
    return trainer


def test_a_data_set_of_conversations_is_rendered_for_both_roles(tmp_path):
    trainer = watched(tmp_path, train=Dataset.from_list(CHAT), backend="dataset", per_device_train_batch_size=1)
    (batch,) = trainer.batches
    word = batch.examples[0].fields["colour"]
    prompt, privileged = (
        trainer.processing_class.decode(batch.views[name].ids[0]) for name in ("prompt", "privileged")
    )
    system, request = "<|im_start|>system\nBe brief.<|im_end|>\n", f"<|im_start|>user\nSay {word}<|im_end|>\n"
    opened = "<|im_start|>assistant\n"
    assert prompt == system + request + opened
    assert privileged == system + (request + opened + f"{word}<|im_end|>\n") * 2 + request + opened
    assert trainer.processing_class.decode(batch.completion_ids[0]) == f"{word}<|im_end|>"
    assert logged(trainer, "loss")[0] > 0.01


def test_a_stream_of_rows_trains_like_a_list_of_them(tmp_path):
    options: dict[str, Any] = {"backend": "dataset", "max_steps": 2, "per_device_train_batch_size": 2}
    stream = watched(tmp_path, train=Dataset.from_list(CHAT).to_iterable_dataset(), **options)
    # A stream comes in its own order.
    listed = watched(tmp_path, train=CHAT, train_sampling_strategy="sequential", **options)
    seen = [[example.fields["colour"] for example in batch.examples] for batch in stream.batches]
    assert seen == [["red", "green"], ["blue", "gold"]]
    assert logged(stream, "loss") == logged(listed, "loss")


def test_a_stream_leaves_out_the_rows_over_budget(tmp_path):
    long = {**CHAT[0], "prompt": [{"role": "user", "content": "long " * 40}], "colour": "none"}
    stream = Dataset.from_list([CHAT[0], long, *CHAT[1:]]).to_iterable_dataset()
    options: dict[str, Any] = {"backend": "dataset", "max_prompt_length": 150, "on_overflow": "drop"}
    trainer = watched(tmp_path, train=stream, per_device_train_batch_size=4, **options)
    seen = [example.fields["colour"] for example in trainer.batches[0].examples]
    assert seen == ["red", "green", "blue", "gold"]


def test_a_prompt_gets_several_completions_that_differ(tmp_path):
    trainer = watched(tmp_path, train=rows(2), per_device_train_batch_size=2, num_generations=3, temperature=2.0)
    (batch,) = trainer.batches
    assert [example.prompt for example in batch.examples] == sorted(
        (example.prompt for example in batch.examples), key=[batch.examples[0].prompt, batch.examples[3].prompt].index
    )
    assert batch.counts.num_sequences == 6
    assert len({tuple(completion.ids) for completion in batch.completions}) == 6


def test_part_of_the_completions_can_come_from_the_data_set(tmp_path):
    trainer = watched(tmp_path, train=rows(8), per_device_train_batch_size=8, on_policy_fraction=0.5)
    (batch,) = trainer.batches
    is_written = [completion.is_on_policy for completion in batch.completions]
    assert 0 < sum(is_written) < 8
    assert logged(trainer, "completions/on_policy_ratio") == [sum(is_written) / 8]
    given = [trainer.processing_class.encode(example.completion) + [2] for example in batch.examples]
    is_given = [completion.ids == ids for completion, ids in zip(batch.completions, given, strict=True)]
    assert is_given == [not written for written in is_written]
    assert "sampler_logp" not in trainer.state.log_history[0]


def test_a_step_without_a_token_that_counts_is_zero_and_moves_nothing(tmp_path):
    # A byte each: no completion of eight tokens fits into two.
    options: dict[str, Any] = {"backend": "dataset", "max_completion_length": 2, "mask_truncated_completions": True}
    trainer = build(tmp_path, keywords={"eval_dataset": rows(3)}, **options)
    assert all(not gradient.any() for gradient in gradients(trainer).values())
    assert logged(trainer, "loss") == [0.0]
    assert logged(trainer, "nonfinite_steps") == [0.0]
    assert logged(trainer, "num_tokens") == [0.0]
    assert logged(trainer, "completions/clipped_ratio") == [1.0]
    assert trainer.evaluate()["eval_loss"] == 0.0


def test_a_row_without_a_token_that_counts_leaves_the_others_alone(tmp_path):
    short = Example("Say a\n", privileged_context="b", completion="a")
    long = Example("Say b\n", privileged_context="c", completion="bbbbbbbb")
    options: dict[str, Any] = {"backend": "dataset", "max_completion_length": 4, "mask_truncated_completions": True}
    alone = build(tmp_path, train=[short], **options)
    beside = build(tmp_path, train=[short, long], **options)
    expected, found = gradients(alone), gradients(beside)
    assert logged(beside, "loss") == pytest.approx(logged(alone, "loss"), rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_row_is_seen_once_an_epoch_in_an_order_that_the_seed_decides(tmp_path):
    def order(seed: int) -> list[str]:
        epochs: dict[str, Any] = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 3}
        trainer = watched(tmp_path, train=rows(6), backend="dataset", seed=seed, **epochs)
        return [str(example.prompt) for batch in trainer.batches for example in batch.examples]

    first = order(0)
    assert sorted(first[:6]) == sorted(first[6:]) == sorted(str(row.prompt) for row in rows(6))
    assert first == order(0) != order(1)


def test_callbacks_are_called_as_the_trainer_calls_them(tmp_path):
    calls = []

    class Recorder(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            calls.append(("step", state.global_step))
            control.should_evaluate = state.global_step == 2

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            calls.append(("evaluate", round(metrics["eval_loss"], 3)))

    trainer = build(tmp_path, keywords={"eval_dataset": rows(2), "callbacks": [Recorder()]}, max_steps=3)
    before = parameters(trainer)
    trainer.train()
    assert any(not torch.equal(value, before[name]) for name, value in parameters(trainer).items())
    names = [name for name, _ in calls]
    assert names == ["step", "step", "evaluate", "step"]
    assert [number for name, number in calls if name == "step"] == [1, 2, 3]
