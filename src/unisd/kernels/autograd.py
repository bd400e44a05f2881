"""Backward passes of the loss path; all are exact, whatever is later done to the scores of each token.

A unit is one matrix product of N tokens with the head. Where gradients are asked for, there are three ways:

    stored     frozen head: the gradient of each score, (N, D), is made in the forward pass; 2 units + 1 per score
    cached     trainable head: gradients of logits are kept up to a budget, and made again beyond it; 4 or 6 units
    predicted  the weights of the scores in the loss are told in the forward pass, up to one factor, and the gradient of
               that combination is made; the backward pass repairs the tokens that were told wrong; 3 units, or 4
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from unisd.kernels.work import DIFFERENTIABLE, SCORES, HeadGradient, TokenScores, Weights, Work

Predict = Callable[[TokenScores, slice], Weights]
"""From the scores of some tokens, and which they are, to their weights in the loss."""

_ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-13}
"""Relative difference between a true and a predicted weight up to which the prediction stands."""


def scores_only(work: Work) -> TokenScores:
    """Without gradient; 2 units, or 1 without a teacher."""
    scores = work.no_scores()
    with work.in_full_precision():
        for chunk in work.chunks():
            chunk.fill(scores, chunk.score(has_gradient=False))
    return scores


class StoredGradients(Function):
    """Scores of a frozen head, whose gradients with respect to the states are made at once, (N, D) for each."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, work: Work, names: tuple[str, ...]) -> tuple[Tensor | None, ...]:
        """`states` are the work's, with gradient; so it is below."""
        scores, stored = work.no_scores(), {name: work.empty(states.shape[1]) for name in names}
        with work.in_full_precision():
            for chunk in work.chunks():
                pair = chunk.score(has_gradient=True)
                chunk.fill(scores, pair)
                for name, gradient in chunk.unit_gradients(pair, names):
                    chunk.back_to_states(gradient, out=stored[name])
        ctx.names, ctx.dtype = names, states.dtype
        ctx.save_for_backward(*stored.values())
        return _outputs(ctx, scores, names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Upstream times stored."""
        total = None
        for name, stored in zip(ctx.names, ctx.saved_tensors, strict=True):
            weights = upstream[SCORES.index(name)]
            if weights is not None:
                part = stored * weights[:, None]
                total = part if total is None else total.add_(part)
        return None if total is None else total.to(ctx.dtype), None, None


class CachedGradients(Function):
    """Scores of a trainable head: logit gradients are kept while `cache_bytes` last, then made again."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        work: Work,
        names: tuple[str, ...],
        cache_bytes: int,
    ) -> tuple[Tensor | None, ...]:
        """`weight` and `bias` are the student's, too."""
        scores, cache = work.no_scores(), []
        # The gradient of a low-precision head will be rounded to its type anyway.
        kept_dtype = weight.dtype if weight.dtype.itemsize == 2 else work.dtype
        with work.in_full_precision():
            for chunk in work.chunks():
                num_bytes = len(chunk.ids) * len(weight) * kept_dtype.itemsize * len(names)
                # The first that does not fit ends it, so that the cache holds the first chunks.
                cache_bytes = cache_bytes - num_bytes if num_bytes <= cache_bytes else -1
                pair = chunk.score(has_gradient=cache_bytes >= 0)
                chunk.fill(scores, pair)
                if cache_bytes >= 0:
                    cache += [gradient.to(kept_dtype, copy=True) for _, gradient in chunk.unit_gradients(pair, names)]
        ctx.work, ctx.names = work, names
        # The weight among them, so that it is noticed when it has changed before the rest is made again.
        ctx.save_for_backward(weight, *cache)
        return _outputs(ctx, scores, names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of logits times upstream, and one product each for states and head."""
        if all(values is None for values in upstream):
            return (None,) * 6
        work, names = ctx.work, ctx.names
        _, *cache = ctx.saved_tensors
        to_states = work.empty(work.student_states.shape[1]) if ctx.needs_input_grad[0] else None
        head = HeadGradient.zeros(work, *ctx.needs_input_grad[1:3])
        with work.in_full_precision():
            for number, chunk in enumerate(work.chunks()):
                kept = cache[number * len(names) : (number + 1) * len(names)]
                if kept:
                    gradient = chunk.weighted(kept, [upstream[SCORES.index(name)] for name in names])
                else:
                    weights = _upstream_weights(upstream).at(chunk.tokens)
                    gradient = chunk.gradient(chunk.score(has_gradient=True), weights)
                if to_states is not None:
                    chunk.back_to_states(gradient, out=to_states)
                head.add(gradient, chunk.states)
        return *_in_types_of(work, to_states, head), None, None, None


class PredictedGradients(Function):
    """Scores with the gradient of one combination of them, the one that the loss is expected to take."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        work: Work,
        names: tuple[str, ...],
        predict: Predict,
    ) -> tuple[Tensor | None, ...]:
        """`weight` and `bias` are the student's, too."""
        return _outputs(ctx, _predicted_pass(ctx, work, weight, predict), names)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Each token's factor between truth and prediction, and what is left of the truth beside it."""
        predicted = ctx.saved_tensors[2]  # (2, N)
        true = torch.stack(
            [
                predicted.new_zeros(predicted.shape[1]) if values is None else values
                for values in _upstream_weights(upstream)
            ]
        )
        size = predicted.abs().amax(0)
        is_told = size != 0
        direction = predicted / torch.where(is_told, size, 1.0)
        factor = (true * direction).sum(0) / direction.square().sum(0) / size
        return *_settled(ctx, true, factor, is_told), None, None, None


class LossGradients(Function):
    """A loss per token, made of its scores alone, and those scores; the gradient is that of the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        work: Work,
        loss_of: Callable[[TokenScores, slice], Tensor],
    ) -> tuple[Tensor | None, ...]:
        """`weight` and `bias` are the student's, too."""
        loss = work.empty()

        def predict(scores: TokenScores, tokens: slice) -> Weights:
            weights, loss[tokens] = weights_in(lambda leaves: loss_of(leaves, tokens), scores)
            return weights

        scores = _predicted_pass(ctx, work, weight, predict)
        return loss, *_outputs(ctx, scores, ())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Upstream times the loss's own weights."""
        if upstream is None:
            return (None,) * 5
        predicted = ctx.saved_tensors[2]
        return *_settled(ctx, upstream * predicted, upstream, (predicted != 0).any(0)), None, None


def weights_in(loss_of: Callable[[TokenScores], Tensor], scores: TokenScores) -> tuple[Weights, Tensor]:
    """The derivatives of each token's loss with respect to its own scores, and the loss."""
    with torch.enable_grad():
        leaves = [None if values is None else values.detach().requires_grad_() for values in scores[:2]]
        loss = loss_of(TokenScores(*leaves, *scores[2:]))  # pyright: ignore[reportCallIssue]
        if loss.shape != scores.student_logp.shape:
            raise ValueError(
                f"fn must give one loss per token, {tuple(scores.student_logp.shape)}, got {tuple(loss.shape)}. "
                "Average what token_loss returns."
            )
        read = [leaf for leaf in leaves if leaf is not None]
        found = torch.autograd.grad(loss.sum(), read, allow_unused=True) if loss.requires_grad else [None] * len(read)
    return Weights(*([None] * (2 - len(read))), *found), loss.detach()


def _predicted_pass(ctx: Any, work: Work, weight: Tensor, predict: Predict) -> TokenScores:
    scores, stored = work.no_scores(), work.empty(work.student_states.shape[1])
    predicted = stored.new_zeros(2, len(stored))
    head = HeadGradient.zeros(work, *ctx.needs_input_grad[1:3])
    with work.in_full_precision():
        for chunk in work.chunks():
            pair = chunk.score(has_gradient=True)
            chunk.fill(scores, pair)
            weights = predict(TokenScores(*pair[:5]), chunk.tokens)
            for row, values in zip(predicted, weights, strict=True):
                if values is not None:
                    row[chunk.tokens] = values
            gradient = chunk.gradient(pair, weights)
            chunk.back_to_states(gradient, out=stored)
            head.add(gradient, chunk.states)
    ctx.work = work
    ctx.save_for_backward(weight, stored, predicted, head.weight, head.bias)
    return scores


def _settled(ctx: Any, true: Tensor, factor: Tensor, is_told: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients for the true weights, (2, N), of which `factor` times the predicted ones are a part."""
    work: Work = ctx.work
    _, stored, predicted, *of_head = ctx.saved_tensors
    factor = torch.where(is_told, factor, 0.0)
    has_head = any(part is not None for part in of_head)
    if has_head:
        # The head's gradient is summed over tokens already, and takes one factor only.
        common = torch.where(is_told, factor, torch.nan).nanmedian().nan_to_num() if len(factor) else factor.sum()
        factor = common.expand_as(factor)
        of_head = [None if part is None else part * common for part in of_head]
    to_states, head = stored * factor[:, None], HeadGradient(*of_head)
    rest = true - factor * predicted
    # Not (... > 0), which a NaN or an infinite weight would pass for right.
    is_wrong = ~(rest.abs() - _ROUNDING[work.dtype] * true.abs() <= 0).all(0)
    wrong = is_wrong.nonzero()[:, 0]
    if len(wrong):
        with work.in_full_precision():
            part, rest = work.only(wrong), rest[:, wrong]
            repaired = part.empty(stored.shape[1])
            for chunk in part.chunks():
                weights = Weights(rest[0] if work.teacher is not None else None, rest[1]).at(chunk.tokens)
                gradient = chunk.gradient(chunk.score(has_gradient=True), weights)
                chunk.back_to_states(gradient, out=repaired)
                head.add(gradient, chunk.states)
            to_states.index_add_(0, wrong, repaired)
    return _in_types_of(work, to_states if ctx.needs_input_grad[0] else None, head)


def _outputs(ctx: Any, scores: TokenScores, names: tuple[str, ...]) -> tuple[Tensor | None, ...]:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(
        *(values for name, values in zip(SCORES, scores, strict=True) if name not in names and values is not None)
    )
    return tuple(scores)


def _upstream_weights(upstream: tuple[Tensor | None, ...]) -> Weights:
    return Weights(*(upstream[SCORES.index(name)] for name in DIFFERENTIABLE))


def _in_types_of(work: Work, to_states: Tensor | None, head: HeadGradient) -> tuple[Tensor | None, ...]:
    """The gradients in the types of what they belong to."""
    of_states = None if to_states is None else to_states.to(work.student_states.dtype)
    of_weight = None if head.weight is None else head.weight.to(work.student.weight.dtype)
    bias = work.student.bias
    return of_states, of_weight, None if head.bias is None or bias is None else head.bias.to(bias.dtype)
