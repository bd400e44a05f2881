"""One optimizer step's completions: who writes them, how they are counted, and from which seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unisd.options import RolloutOptions
from unisd.rollout.seeds import forked_rng, purpose_seed
from unisd.rollout.writer import RolloutWriter
from unisd.types import Completion, Example, RolloutBatch, StepCounts

EXAMPLES = [Example(letter, completion="de") for letter in "abcdefgh"]


class Generate:
    """Writes as many tokens as the prompt's last id says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.seeds: list[int] = []

    def __call__(self, prompts: list[list[int]], seed: int) -> list[Completion]:
        self.prompts += prompts
        self.seeds.append(seed)
        return [Completion([7] * prompt[-1], [-1.0] * prompt[-1], is_finished=True) for prompt in prompts]


@pytest.fixture
def write(tiny_tokenizer):
    """`write(micro_batches, generate, ...options)`; the prompt of "a" is [1], of "b" [2], and so on."""

    def run(
        micro_batches: list[list[Example]],
        generate: Generate | None = None,
        *,
        seed: int = 0,
        count: Callable[[StepCounts], StepCounts] = lambda counts: counts,
        **options: Any,
    ) -> list[RolloutBatch]:
        return RolloutWriter(
            options=RolloutOptions(**options),
            tokenizer=tiny_tokenizer,
            render=lambda example: {"prompt": [ord(str(example.prompt)) - ord("a") + 1]},
            generate=generate or Generate(),
            count=count,
        )(micro_batches, seed=seed)

    return run


def test_the_student_writes_all_micro_batches_in_one_go_and_they_come_back_as_they_were(write) -> None:
    generate = Generate()
    batches = write([EXAMPLES[:2], EXAMPLES[2:3]], generate)
    assert generate.prompts == [[1], [2], [3]]
    assert len(generate.seeds) == 1
    assert [len(batch) for batch in batches] == [2, 1]
    assert [batch.completion_mask.sum(-1).tolist() for batch in batches] == [[1, 2], [3]]
    assert batches[1].examples == [EXAMPLES[2]]


def test_every_batch_carries_the_counts_of_the_whole_step_over_all_processes(write) -> None:
    batches = write([EXAMPLES[:2], EXAMPLES[2:3]], num_loss_tokens_to_skip=1)
    assert [batch.counts for batch in batches] == [StepCounts(num_tokens=0 + 1 + 2, num_sequences=2)] * 2
    doubled = write(
        [EXAMPLES[:3]], count=lambda counts: StepCounts(counts.num_tokens * 2, counts.num_sequences * 2)
    )  # fmt: skip
    assert doubled[0].counts == StepCounts(12, 6)


def test_a_prompt_gets_as_many_completions_as_asked_side_by_side(write) -> None:
    generate = Generate()
    batches = write([EXAMPLES[:1], EXAMPLES[1:2]], generate, num_generations=3)
    assert generate.prompts == [[1]] * 3 + [[2]] * 3
    assert [[example.prompt for example in batch.examples] for batch in batches] == [["a"] * 3, ["b"] * 3]
    assert batches[0].counts == StepCounts(9, 6)


@pytest.mark.parametrize("options", [{"on_policy_fraction": 0.0}, {"backend": "dataset"}])
def test_completions_of_the_data_set_need_no_sampling(write, options: dict[str, Any]) -> None:
    generate = Generate()
    (batch,) = write([EXAMPLES[:2]], generate, **options)
    assert generate.seeds == []
    assert batch.sampler_logp is None
    assert batch.completion_ids.shape == (2, 3)
    assert batch.completion_ids[:, -1].tolist() == [2, 2]
    assert not any(completion.is_on_policy for completion in batch.completions)


def test_all_on_policy_reads_no_completion_column(write) -> None:
    (batch,) = write([[Example("a"), Example("b")]], on_policy_fraction=1.0)
    assert all(completion.is_on_policy for completion in batch.completions)


def test_a_fraction_mixes_by_sequence_from_a_seed_of_its_own(write) -> None:
    generate = Generate()

    def drawn(seed: int, generate: Generate | None = None) -> list[bool]:
        (batch,) = write([EXAMPLES], generate, seed=seed, on_policy_fraction=0.5, num_generations=25)
        assert [one.ids[0] == 7 for one in batch.completions] == [one.is_on_policy for one in batch.completions]
        return [one.is_on_policy for one in batch.completions]

    first = drawn(0, generate)
    assert 70 < sum(first) < 130  # of 200
    # Only those prompts are sampled, in order.
    rows = [number for number in range(1, 9) for _ in range(25)]
    assert generate.prompts == [[number] for number, on_policy in zip(rows, first, strict=True) if on_policy]
    assert drawn(0) == first
    assert drawn(1) != first


def test_the_seed_of_sampling_follows_the_seed_of_the_step(write) -> None:
    generate = Generate()
    for seed in (0, 0, 1):
        write([EXAMPLES[:1]], generate, seed=seed)
    assert generate.seeds[0] == generate.seeds[1] != generate.seeds[2]


def test_seeds_depend_on_every_part_and_on_where_one_ends() -> None:
    parts = [(0, "sample"), (1, "sample"), (0, "on_policy"), (1, 23), (12, 3), (0, 0, 1), (0, 1, 0)]
    seeds = {purpose_seed(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # The same in every process and on every machine.
    assert purpose_seed(42, "train", 7, 0) == 8582054306961545642


def test_a_forked_generator_starts_from_its_seed_and_leaves_the_global_one() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    drawn = []
    for _ in range(2):
        with forked_rng(3, torch.device("cpu")):
            drawn.append(torch.rand(1))
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_policy_fraction": 1.5}, "on_policy_fraction must be between 0 and 1, got 1.5"),
        ({"num_generations": 0}, "num_generations must be at least 1, got 0"),
        ({"max_completion_length": 0}, "max_completion_length must be at least 1"),
        ({"generation_batch_size": 0}, "generation_batch_size must be at least 1"),
        ({"num_completions_to_print": 0}, "num_completions_to_print must be at least 1"),
        ({"temperature": -0.1}, r"temperature must be 0 \(greedy\) or positive, got -0.1"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_k": -1}, r"top_k must be 0 \(off\) or positive, got -1"),
        ({"min_p": 2.0}, "min_p must be between 0 and 1, got 2.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be positive, got 0.0"),
        ({"num_loss_tokens_to_skip": -1}, "num_loss_tokens_to_skip must be 0 or positive, got -1"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_a_rollout_option_outside_its_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutOptions(**options)
