"""Random objectives, components, masks and heads: loss and gradients are those of autograd over whole logits."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unisd.kernels import autograd
from unisd.objective import Agreement, Contrastive, CrossEntropy, DivergenceClip, TokenFilter
from unisd.objective.divergence import Divergence
from unisd.scoring import reference
from unisd.scoring.forward import PassOutput
from unisd.scoring.fused import token_scores
from unisd.scoring.head import Head
from unisd.scoring.plan import plan_passes
from unisd.step import Step, TeacherScores, named_components
from unisd.teacher import LiveTeacher
from unisd.types import Loss, RolloutBatch, Signal, StepCounts, TokenScores, Transform

B, T, D, K = 3, 6, 5, 2


def random_objective(draw: random.Random) -> Divergence:
    divergence = draw.choice(["forward_kl", "reverse_kl", "jsd"])
    jsd = {"beta": draw.choice([None, 0.1, 0.9]), "scaled": draw.random() < 0.5} if divergence == "jsd" else {}
    return Divergence(
        divergence,
        temperature=draw.choice([1.0, 0.7]),
        reduction=draw.choice(["token_mean", "sequence_mean"]),
        reference=draw.random() < 0.1,
        **jsd,
    )


def random_components(draw: random.Random) -> list[Loss | Transform]:
    """Of each kind one or none, in random order."""
    clip = draw.choice([DivergenceClip(ceiling=0.4), DivergenceClip(quantile=draw.uniform(0.2, 0.9)), None])
    agreement = draw.choice([Agreement(strength=2.0), Agreement("sequence"), Agreement(scale="quantile"), None])
    hinge = Contrastive(form=draw.choice(["paper", "directional"]), coefficient=0.7, weighted=draw.random() < 0.5)
    likelihood = CrossEntropy(coefficient=0.3, weighted=draw.random() < 0.5)
    kept = [clip, agreement, draw.choice([hinge, None]), draw.choice([likelihood, None])]
    kept.append(TokenFilter(fraction=0.5) if draw.random() < 0.2 else None)
    draw.shuffle(kept)
    return [component for component in kept if component is not None]


class Scene:
    """One micro-batch of random states with everything that components read beside them."""

    def __init__(self, seed: int) -> None:
        draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        components = random_components(draw)
        self.objective = random_objective(draw)
        components = named_components(components, self.objective)
        plan = plan_passes([self.objective.needs, *(one.needs for one in components.values())])
        self.step = Step(plan, LiveTeacher(), self.objective, components)
        vocabulary = draw.choice([2, 17, 64])
        options = {"scale": draw.choice([1.0, 0.6]), "softcap": draw.choice([None, 4.0])}
        is_trained = draw.random() < 0.5
        bias = normal(vocabulary).requires_grad_(is_trained) if draw.random() < 0.5 else None
        self.student = PassOutput(
            normal(B, T, D).requires_grad_(), Head(normal(vocabulary, D).requires_grad_(is_trained), bias, **options)
        )
        near = self.student.states.detach() + draw.choice([0.1, 1.0]) * normal(B, T, D)
        self.teacher = PassOutput(near, replace(self.student.head.detached(), **options))
        mask = torch.rand(B, T, generator=generator) < draw.choice([0.0, 0.5, 1.0])
        self.batch = RolloutBatch(
            views={}, completion_ids=torch.randint(vocabulary, (B, T), generator=generator), completion_mask=mask,
            mask=mask, sampler_logp=None, counts=StepCounts(int(mask.sum()) + 4, B), examples=[], completions=[],
        )  # fmt: skip
        scored = torch.rand(B, generator=generator) < 0.7
        self.others = TeacherScores(
            None,
            {Signal.AUXILIARY_LOGP: -normal(K, B, T).abs(), Signal.NEGATIVE_LOGP: -3 * normal(B, T).abs()},
            {Signal.AUXILIARY_LOGP: scored, Signal.NEGATIVE_LOGP: ~scored},
        )
        self.rows_per_chunk = draw.choice([None, 1, 4])

    @property
    def leaves(self) -> list[Tensor]:
        head = self.student.head
        return [
            leaf for leaf in (self.student.states, head.weight, head.bias) if leaf is not None and leaf.requires_grad
        ]

    def loss(self, signals: dict[Signal, Tensor]) -> Tensor:
        scores = TokenScores(
            mask=self.batch.mask,
            completion_ids=self.batch.completion_ids,
            signals={**signals, **self.others.signals},
            scored_rows=self.others.scored_rows,
            counts=self.batch.counts,
        )
        return self.step.reduce(self.step.token_losses(scores), scores)

    def as_the_trainer_does(self) -> Tensor:
        return self.loss(
            token_scores(
                self.student, self.teacher, ids=self.batch.completion_ids, mask=self.batch.mask,
                objective=self.objective, signals=self.step.plan.signals, rows_per_chunk=self.rows_per_chunk,
                predict=self.step._foreseen(self.batch, self.others),
            )
        )  # fmt: skip

    def from_whole_logits(self) -> Tensor:
        logits = (output.head.logits(output.states) for output in (self.student, self.teacher))
        return self.loss(
            reference.token_scores(
                *logits, ids=self.batch.completion_ids, mask=self.batch.mask, objective=self.objective
            )
        )


@pytest.mark.parametrize("seeds", [range(start, start + 25) for start in range(0, 200, 25)], ids=str)
def test_the_composed_loss_and_its_gradients_are_those_of_whole_logits(seeds: range) -> None:
    for seed in seeds:
        scene = Scene(seed)
        mine, true = scene.as_the_trainer_does(), scene.from_whole_logits()
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12, msg=f"seed {seed}")
        gradients = (torch.autograd.grad(loss, scene.leaves) for loss in (mine, true))
        for got, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12, msg=f"seed {seed}")


def test_among_them_every_way_to_a_gradient_is_taken_and_no_foresight_is_ever_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, repaired = set(), []
    for way in (autograd.StoredGradients, autograd.CachedGradients, autograd.PredictedGradients):
        forward = way.forward
        monkeypatch.setattr(
            way, "forward", staticmethod(lambda *given, way=way, forward=forward: (taken.add(way), forward(*given))[1])
        )
    only = autograd.Work.only
    monkeypatch.setattr(autograd.Work, "only", lambda work, index: (repaired.append(index), only(work, index))[1])
    for seed in range(60):
        scene = Scene(seed)
        torch.autograd.grad(scene.as_the_trainer_does(), scene.leaves)
    assert taken == {autograd.StoredGradients, autograd.CachedGradients, autograd.PredictedGradients}
    assert repaired == []
