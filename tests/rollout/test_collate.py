"""Rows of different lengths as one padded micro-batch."""

from __future__ import annotations

import torch

from unisd.options import RolloutOptions
from unisd.rollout.collate import Row, collate, left_pad, local_counts
from unisd.types import Completion, Example, RolloutBatch, StepCounts

PAD = 9
FINISHED = Completion([1, 2, 3], [-0.1, -0.2, -0.3], is_finished=True)
TRUNCATED = Completion([4, 5, 6, 7], [-0.4, -0.5, -0.6, -0.7], is_finished=False)
SHORT = Completion([8], [-0.8], is_finished=True)
EMPTY = Completion([], [], is_finished=True)
OFF_POLICY = Completion([1, 2], None, is_finished=True, is_on_policy=False)


def batch_of(*completions: Completion, **options: int | bool) -> RolloutBatch:
    rows = [
        Row(Example(str(number)), {"prompt": [5] * (number + 1), "privileged": [6] * (4 - number)}, completion)
        for number, completion in enumerate(completions)
    ]
    rollout = RolloutOptions(**options)  # pyright: ignore[reportArgumentType]
    return collate(rows, pad=PAD, options=rollout, counts=local_counts(rows, rollout))


def test_prompts_are_padded_on_the_left_and_completions_on_the_right() -> None:
    batch = batch_of(FINISHED, TRUNCATED, SHORT)
    assert batch.views["prompt"].ids.tolist() == [[9, 9, 5], [9, 5, 5], [5, 5, 5]]
    assert batch.views["prompt"].mask.tolist() == [[False, False, True], [False, True, True], [True] * 3]
    assert batch.views["privileged"].ids.tolist() == [[6, 6, 6, 6], [9, 6, 6, 6], [9, 9, 6, 6]]
    assert batch.completion_ids.tolist() == [[1, 2, 3, 9], [4, 5, 6, 7], [8, 9, 9, 9]]
    assert batch.completion_mask.tolist() == [[True] * 3 + [False], [True] * 4, [True] + [False] * 3]
    assert torch.equal(batch.mask, batch.completion_mask)
    assert batch.sampler_logp is not None
    torch.testing.assert_close(
        batch.sampler_logp, torch.tensor([[-0.1, -0.2, -0.3, 0.0], [-0.4, -0.5, -0.6, -0.7], [-0.8, 0.0, 0.0, 0.0]])
    )
    assert batch.counts == StepCounts(num_tokens=8, num_sequences=3)
    assert [example.prompt for example in batch.examples] == ["0", "1", "2"]
    assert batch.completions == [FINISHED, TRUNCATED, SHORT]


def test_the_first_tokens_leave_the_loss_but_not_the_completion() -> None:
    batch = batch_of(FINISHED, TRUNCATED, SHORT, num_loss_tokens_to_skip=2)
    assert batch.mask.tolist() == [[False, False, True, False], [False, False, True, True], [False] * 4]
    assert batch.completion_mask.sum() == 8
    # The short one has nothing left, so it is no sequence either.
    assert batch.counts == StepCounts(num_tokens=3, num_sequences=2)


def test_truncated_completions_leave_the_loss_when_told() -> None:
    batch = batch_of(FINISHED, TRUNCATED, mask_truncated_completions=True)
    assert batch.mask.tolist() == [[True] * 3 + [False], [False] * 4]
    assert batch.completion_mask[1].all()
    assert batch.counts == StepCounts(num_tokens=3, num_sequences=1)


def test_empty_completions_are_rows_without_a_valid_token() -> None:
    batch = batch_of(FINISHED, EMPTY)
    assert batch.mask.tolist() == [[True] * 3, [False] * 3]
    assert batch.counts == StepCounts(num_tokens=3, num_sequences=1)
    alone = batch_of(EMPTY)
    assert alone.completion_ids.tolist() == [[PAD]]
    assert alone.mask.tolist() == [[False]]
    assert alone.sampler_logp is not None
    assert alone.sampler_logp.dtype == torch.float32
    assert alone.counts == StepCounts(0, 0)


def test_the_sampler_logp_is_there_only_where_every_row_was_sampled() -> None:
    assert batch_of(FINISHED, OFF_POLICY).sampler_logp is None
    assert batch_of(FINISHED).sampler_logp is not None


def test_a_view_covers_the_rows_that_have_it() -> None:
    views = [{"prompt": [1]}, {"prompt": [3, 4], "negative": [2]}, {"prompt": [5], "negative": [6, 7]}]
    rows = [Row(Example("a"), view, SHORT) for view in views]
    batch = collate(rows, pad=PAD, options=RolloutOptions(), counts=StepCounts(3, 3))
    assert batch.views["prompt"].rows.tolist() == [0, 1, 2]
    negative = batch.views["negative"]
    assert negative.rows.tolist() == [1, 2]
    assert negative.ids.tolist() == [[PAD, 2], [6, 7]]
    part = negative.only(torch.tensor([True, False, True]))
    assert part.rows.tolist() == [2]
    assert part.ids.tolist() == [[6, 7]]
    assert part.mask.tolist() == [[True, True]]


def test_left_padding_keeps_an_empty_prompt_beside_others() -> None:
    view = left_pad([[], [1, 2]], PAD)
    assert view.ids.tolist() == [[PAD, PAD], [1, 2]]
    assert view.mask.tolist() == [[False, False], [True, True]]
