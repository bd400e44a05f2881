"""What the kernels cannot compute is refused before anything is computed, with what is allowed."""

from __future__ import annotations

import pytest
import torch

from unisd.kernels import token_loss, token_scores

D, V = 24, 1003


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"divergence": "kl"}, "one of forward_kl, reverse_kl, jsd, none, got 'kl'"),
        ({"beta": 0.3}, "beta belongs to jsd"),
        ({"divergence": "jsd", "beta": 1.0}, "both excluded, got 1.0"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"softcap": 0.0}, "softcap must be positive"),
        ({"differentiable": ("student_entropy",)}, "differentiable may name divergence and student_logp"),
        ({"divergence": "none"}, "'none' takes no teacher"),
        ({"teacher_hidden": None}, "needs teacher_hidden"),
        ({"teacher_head": torch.zeros(9, D)}, "share a vocabulary, got 9 and 1003"),
        ({"teacher_bias": torch.zeros(V)}, "teacher_bias comes with teacher_head"),
        ({"ids": torch.full((2,), V)}, "between 0 and 1002 wherever `mask` is true, got 1003 to 1003"),
        ({"chunk_rows": -1}, "chunk_rows must be at least 1, got -1"),
        ({"impl": "c", "student_hidden": torch.zeros(2, D, dtype=torch.float64)}, "impl: c computes float32"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict, message: str) -> None:
    given = {
        "student_hidden": torch.zeros(2, D),
        "student_head": torch.zeros(V, D),
        **{"teacher_hidden": torch.zeros(2, D), "ids": torch.zeros(2, dtype=torch.long), **options},
    }
    with pytest.raises(ValueError, match=message):
        token_scores(**given)


def test_a_loss_that_is_averaged_within_a_chunk_is_refused() -> None:
    states, ids = torch.zeros(2, D, requires_grad=True), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="fn must give one loss per token, .2,., got .."):
        token_loss(states, torch.zeros(V, D), states, ids=ids, fn=lambda scores: scores.divergence.mean())


def test_an_attention_mask_of_integers_is_a_mask() -> None:
    states, ids = torch.ones(2, 3, D), torch.arange(6).view(2, 3)
    head = torch.arange(V * D).view(V, D) / (V * D)
    of_integers, of_truths = (
        token_scores(states, head, 2 * states, ids=ids, mask=torch.tensor([[1, 1, 0], [0, 1, 0]]).to(dtype)).divergence
        for dtype in (torch.long, torch.bool)
    )
    assert of_integers.count_nonzero() == 3
    assert torch.equal(of_integers, of_truths)
