"""Completions of the data set as token ids."""

from __future__ import annotations

import pytest

from unisd.rollout.dataset import dataset_completion
from unisd.types import Completion, Example

EOS = 2


@pytest.fixture
def complete(tiny_tokenizer):
    """`complete(text, max_length=...)`: one token per byte, ended by 2."""

    def run(text: str | None, *, max_length: int = 10, end_of_sequence: int | None = EOS) -> Completion:
        example = Example("a", completion=text)
        return dataset_completion(example, tiny_tokenizer, end_of_sequence=end_of_sequence, max_length=max_length)

    return run


def test_a_completion_ends_in_the_end_of_sequence_and_nobody_sampled_it(complete, tiny_tokenizer) -> None:
    ids = [*tiny_tokenizer.encode("red"), EOS]
    assert len(ids) == 4
    assert complete("red") == Completion(ids, sampler_logp=None, is_finished=True, is_on_policy=False)


@pytest.mark.parametrize(("max_length", "is_finished"), [(4, True), (3, False), (1, False)])
def test_a_completion_over_its_length_is_cut_and_not_finished(complete, max_length: int, is_finished: bool) -> None:
    cut = complete("red", max_length=max_length)
    assert cut.ids == complete("red").ids[:max_length]
    assert cut.is_finished == is_finished


@pytest.mark.parametrize("text", ["red<|im_end|>", "red<|im_end|>\n<|im_start|>user"])
def test_the_first_end_of_sequence_is_the_last_token(complete, text: str) -> None:
    assert complete(text) == complete("red")


def test_an_empty_completion_is_its_end_or_nothing_at_all(complete) -> None:
    assert complete("").ids == [EOS]
    assert complete("", end_of_sequence=None).ids == []
    assert complete("red", end_of_sequence=None).ids == complete("red").ids[:-1]


def test_a_row_without_a_completion_says_what_to_add(complete) -> None:
    with pytest.raises(ValueError, match="A row has no completion, .* Add a `completion` column or set backend: hf"):
        complete(None)
