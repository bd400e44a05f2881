"""Which sequences of a step keep their auxiliary and negative views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from unisd.options import Gate, RolloutOptions
from unisd.rollout.collate import Row, collate
from unisd.rollout.gate import gated, num_kept
from unisd.types import Completion, Example, StepCounts

VIEWS = {"prompt": [1], "privileged": [2], "auxiliary_0": [3], "auxiliary_1": [4], "negative": [5]}
# Negative log-probability per token 1, 3, 2, 3: by its mean, not by its sum.
LOGPS = [[-1.0] * 9, [-3.0], [-2.0, -1.0, -3.0], [-3.0, -3.0]]


def rows(logps: list[list[float]] = LOGPS, *, is_finished: bool = True) -> list[Row]:
    return [Row(Example("x"), VIEWS, Completion([7] * len(logp), logp, is_finished)) for logp in logps]


def keepers(gates: Mapping[str, Gate], view: str, given: list[Row] | None = None, **options: Any) -> list[int]:
    """Which rows keep the view."""
    left = gated(given or rows(), gates, RolloutOptions(**options))
    return [index for index, row in enumerate(left) if view in row.views]


@pytest.mark.parametrize(("fraction", "kept"), [(0.25, [1]), (0.3, [1, 3]), (0.5, [1, 3]), (0.75, [1, 2, 3])])
def test_the_most_uncertain_sequences_keep_the_views_and_of_equals_the_earlier(
    fraction: float, kept: list[int]
) -> None:
    for view in ("auxiliary_0", "auxiliary_1"):
        assert keepers({"auxiliary": Gate("sampler_nll", fraction)}, view) == kept


def test_every_other_view_stays_and_each_kind_has_its_own_gate() -> None:
    gates = {"auxiliary": Gate("sampler_nll", 0.5), "negative": Gate("sampler_nll", 0.25)}
    assert keepers(gates, "negative") == [1]
    assert keepers(gates, "auxiliary_1") == [1, 3]
    assert keepers(gates, "prompt") == keepers(gates, "privileged") == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "gates", [{}, {"auxiliary": Gate("sampler_nll", 1.0)}, {"auxiliary": Gate("student_entropy", 0.25)}], ids=str
)
def test_without_a_gate_with_one_for_all_and_before_the_student_has_spoken_every_view_stays(gates: Any) -> None:
    assert gated(rows(), gates, RolloutOptions()) == rows()


def test_a_share_of_a_count_is_not_misled_by_floating_point() -> None:
    assert 0.28 * 25 > 7
    assert [num_kept(num, fraction) for num, fraction in ((25, 0.28), (26, 0.28), (3, 1 / 3), (0, 0.5))] == [7, 8, 1, 0]


def test_tokens_that_the_loss_skips_do_not_count_and_sequences_without_loss_come_last() -> None:
    given = rows([[-9.0, -1.0], [-1.0, -2.0], [-9.0]])
    # Of the first tokens the third row, of all the first; without the first ones only the second has a surprise.
    assert keepers({"negative": Gate("sampler_nll", 1 / 3)}, "negative", given) == [2]
    assert keepers({"negative": Gate("sampler_nll", 1 / 3)}, "negative", given, num_loss_tokens_to_skip=1) == [1]
    truncated = [*rows([[-5.0]], is_finished=False), *rows([[-1.0]])]
    gate = {"negative": Gate("sampler_nll", 0.5)}
    assert keepers(gate, "negative", truncated) == [0]
    assert keepers(gate, "negative", truncated, mask_truncated_completions=True) == [1]


def test_a_batch_of_gated_rows_has_the_views_that_are_left() -> None:
    options = RolloutOptions()
    left = gated(rows(), {"auxiliary": Gate("sampler_nll", 0.25), "negative": Gate("sampler_nll", 0.5)}, options)
    counts = StepCounts(15, 4)
    batch = collate(left, pad=0, options=options, counts=counts)
    assert {name: view.rows.tolist() for name, view in batch.views.items() if name not in ("prompt", "privileged")} == {
        "auxiliary_0": [1],
        "auxiliary_1": [1],
        "negative": [1, 3],
    }
    # A micro-batch that lost all of them has none.
    assert set(collate(left[:1], pad=0, options=options, counts=counts).views) == {"prompt", "privileged"}


def test_a_completion_that_nobody_sampled_has_no_uncertainty() -> None:
    unsampled = [Row(Example("x"), VIEWS, Completion([7], None, is_finished=True, is_on_policy=False))]
    with pytest.raises(ValueError, match="needs sampled completions, .* Set rollout.backend: hf .* student_entropy"):
        gated(unsampled, {"auxiliary": Gate()}, RolloutOptions())


@pytest.mark.parametrize("fraction", [0.0, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"gate.fraction must be in \(0, 1\], got"):
        Gate(fraction=fraction)
