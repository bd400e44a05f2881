"""The calls: scores, log-probabilities and losses per token from hidden states, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unisd.kernels import chunk
from unisd.kernels.autograd import (
    CachedGradients,
    LossGradients,
    Predict,
    PredictedGradients,
    StoredGradients,
    scores_only,
    weights_in,
)
from unisd.kernels.dispatch import Impl, rows_for
from unisd.kernels.gemm import Projection, project
from unisd.kernels.rows import AfterHead, DivergenceKind, RowSpec, RowStatistics
from unisd.kernels.work import DIFFERENTIABLE, TokenScores, Work


def token_scores(
    student_hidden: Float[Tensor, "*tokens D"],
    student_head: Float[Tensor, "V D"],
    teacher_hidden: Float[Tensor, "*tokens E"] | None,
    teacher_head: Float[Tensor, "W E"] | None = None,
    *,
    ids: Int[Tensor, "*tokens"],
    divergence: DivergenceKind | str = "forward_kl",
    beta: float | None = None,
    temperature: float = 1.0,
    student_bias: Float[Tensor, " V"] | None = None,
    teacher_bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    mask: Bool[Tensor, "*tokens"] | Int[Tensor, "*tokens"] | None = None,
    differentiable: Sequence[str] = ("divergence",),
    impl: Impl = "auto",
    chunk_rows: int | None = None,
    predict: Predict | None = None,
) -> TokenScores:
    """Student against teacher, each score shaped like `ids`, 0 where `mask` is false; such tokens are not projected.

    Logits are the soft cap of scale * (W h + b), over the temperature. `teacher_head=None` shares the student's head
    and bias. With divergence "none" there is no teacher, and no score of one. Logits and scores are float32, or float64
    where a state or a head is.

    Gradient flows from the `differentiable` scores, of "divergence" and "student_logp", to the student's states, head
    and bias. `predict` names the weights that the scores of some tokens are expected to have in the loss, up to one
    factor: where it is right it saves a matrix product, or memory (trainable head); where it is wrong, the gradient is
    as exact and costs more.
    """
    names = tuple(name for name in DIFFERENTIABLE if name in differentiable)
    if unknown := set(differentiable) - set(DIFFERENTIABLE):
        raise ValueError(f"differentiable may name {' and '.join(DIFFERENTIABLE)}, got {', '.join(sorted(unknown))}.")
    work, states = _packed(
        student_hidden, student_head, teacher_hidden, teacher_head, ids, mask,
        biases=(student_bias, teacher_bias), after=_after_head(scale, softcap),
        spec=_spec(divergence, beta, temperature), impl=impl, chunk_rows=chunk_rows,
    )  # fmt: skip
    if work.teacher is None:
        names = names[-1:] if names[-1:] == ("student_logp",) else ()
    is_trainable = student_head.requires_grad or (student_bias is not None and student_bias.requires_grad)
    if not torch.is_grad_enabled() or not names or not (states.requires_grad or is_trainable):
        scores = scores_only(work)
    elif predict is not None:
        scores = PredictedGradients.apply(states, student_head, student_bias, work, names, predict)
    elif is_trainable:
        scores = CachedGradients.apply(states, student_head, student_bias, work, names, chunk.CACHE_BYTES)
    else:
        scores = StoredGradients.apply(states, work, names)
    return _unpacked_scores(scores, ids, mask)


def token_loss(
    student_hidden: Float[Tensor, "*tokens D"],
    student_head: Float[Tensor, "V D"],
    teacher_hidden: Float[Tensor, "*tokens E"] | None,
    teacher_head: Float[Tensor, "W E"] | None = None,
    *,
    ids: Int[Tensor, "*tokens"],
    fn: Callable[..., Tensor],
    side: Sequence[Tensor] = (),
    divergence: DivergenceKind | str = "forward_kl",
    beta: float | None = None,
    temperature: float = 1.0,
    student_bias: Float[Tensor, " V"] | None = None,
    teacher_bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    mask: Bool[Tensor, "*tokens"] | Int[Tensor, "*tokens"] | None = None,
    impl: Impl = "auto",
    chunk_rows: int | None = None,
) -> tuple[Tensor, TokenScores]:
    """A loss per token, `fn(scores, *side)`, and the scores without gradient; all shaped like `ids`.

    `fn` maps the scores of n tokens, and their rows of the `side` tensors (shaped like `ids`), to n losses, each made
    of its own token alone: weights, a static clip, a hinge. It is called on chunks. Gradient flows through
    "divergence" and "student_logp" to the student's states, head and bias, with one matrix product for any
    combination of the two, and not to `side`. Everything else is as in `token_scores`.
    """
    work, states = _packed(
        student_hidden, student_head, teacher_hidden, teacher_head, ids, mask,
        biases=(student_bias, teacher_bias), after=_after_head(scale, softcap),
        spec=_spec(divergence, beta, temperature), impl=impl, chunk_rows=chunk_rows,
    )  # fmt: skip
    packed_side = [_pack(values.detach(), ids, mask) for values in side]

    def loss_of(scores: TokenScores, tokens: slice) -> Tensor:
        return fn(scores, *(values[tokens] for values in packed_side))

    leaves = (states, student_head, student_bias)
    if torch.is_grad_enabled() and any(leaf is not None and leaf.requires_grad for leaf in leaves):
        loss, *rest = LossGradients.apply(states, student_head, student_bias, work, loss_of)
        scores = TokenScores(*rest)
    else:
        scores = scores_only(work)
        _, loss = weights_in(lambda whole: loss_of(whole, slice(None)), scores)
    return cast(Tensor, _unpacked(loss, ids, mask)), _unpacked_scores(scores, ids, mask)


def token_logp(
    hidden: Float[Tensor, "*tokens D"],
    head: Float[Tensor, "V D"],
    ids: Int[Tensor, "*tokens"],
    *,
    temperature: float = 1.0,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    mask: Bool[Tensor, "*tokens"] | Int[Tensor, "*tokens"] | None = None,
    impl: Impl = "auto",
    chunk_rows: int | None = None,
) -> RowStatistics:
    """Log-probability of the realised tokens and entropy under one view, without gradient, for one matrix product.

    Shaped like `ids`, 0 where `mask` is false; the rest is as in `token_scores`.
    """
    work, _ = _packed(
        hidden, head, None, None, ids, mask, biases=(bias, None), after=_after_head(scale, softcap),
        spec=_spec("none", None, temperature), impl=impl, chunk_rows=chunk_rows,
    )  # fmt: skip
    statistics = RowStatistics(work.empty(), work.empty())
    with work.in_full_precision():
        for part in work.chunks():
            project(part.states, work.student, out=part.student_logits)
            of_part = work.rows.statistics(
                part.student_logits,
                part.ids,
                after=work.spec.student,
                inverse_temperature=work.spec.inverse_temperature,
            )
            for target, values in zip(statistics, of_part, strict=True):
                target[part.tokens] = values
    return RowStatistics(*(cast(Tensor, _unpacked(values, ids, mask)) for values in statistics))


def _unpacked_scores(scores: Iterable[Tensor | None], ids: Tensor, mask: Tensor | None) -> TokenScores:
    values: list[Any] = [_unpacked(one, ids, mask) for one in scores]
    return TokenScores(*values)


def _packed(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    ids: Tensor,
    mask: Tensor | None,
    *,
    biases: tuple[Tensor | None, Tensor | None],
    after: AfterHead,
    spec: RowSpec,
    impl: Impl,
    chunk_rows: int | None,
) -> tuple[Work, Tensor]:
    """The tokens that count, without gradient; and the student's states among them, with it."""
    _check_teacher(spec.divergence, teacher_hidden, student_head, teacher_head)
    if teacher_head is None and biases[1] is not None:
        raise ValueError("teacher_bias comes with teacher_head; without it the student's head and bias are shared.")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}. For what fits the byte rule give None.")
    student = Projection(student_head.detach(), _detached(biases[0]), after)
    teacher = student
    if teacher_head is not None:
        teacher = Projection(teacher_head.detach(), _detached(biases[1]), after)
    tensors = [student_hidden, student_head, *(one for one in (teacher_hidden, teacher_head) if one is not None)]
    dtype = torch.float64 if any(one.dtype == torch.float64 for one in tensors) else torch.float32
    states, packed_ids = _pack(student_hidden, ids, mask), _pack(ids, ids, mask).long().contiguous()
    _check_ids(packed_ids, len(student_head))
    device = student_hidden.device
    has_teacher = teacher_hidden is not None
    work = Work(
        student_states=states.detach(),
        teacher_states=None if teacher_hidden is None else _pack(teacher_hidden.detach(), ids, mask),
        ids=packed_ids,
        student=student,
        teacher=teacher if has_teacher else None,
        spec=replace(spec, student=after, teacher=after),
        rows=rows_for(device, dtype, impl),
        chunk_rows=chunk_rows or chunk.chunk_rows(len(student_head), device.type, num_buffers=1 + has_teacher),
        dtype=dtype,
    )
    return work, states


def _pack(values: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    """The tokens that count in one row, (N,) or (N, D)."""
    if mask is not None:
        return values[mask.bool()]
    return values.reshape(ids.numel(), *values.shape[ids.ndim :])


def _unpacked(values: Tensor | None, ids: Tensor, mask: Tensor | None) -> Tensor | None:
    if values is None:
        return None
    if mask is None:
        return values.view(ids.shape)
    return values.new_zeros(ids.shape).masked_scatter(mask.bool(), values)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _spec(divergence: DivergenceKind | str, beta: float | None, temperature: float) -> RowSpec:
    if divergence not in get_args(DivergenceKind):
        raise ValueError(f"divergence must be one of {', '.join(get_args(DivergenceKind))}, got {divergence!r}.")
    if beta is not None and (divergence != "jsd" or not 0 < beta < 1):
        raise ValueError(f"beta belongs to jsd and lies between 0 and 1, both excluded, got {beta} with {divergence}.")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive, got {temperature}.")
    return RowSpec(cast(DivergenceKind, divergence), 0.5 if beta is None else beta, 1.0 / temperature)


def _after_head(scale: float, softcap: float | None) -> AfterHead:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be positive, got {scale}.")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap must be positive, got {softcap}. For logits without a cap give None.")
    return AfterHead(scale, softcap)


def _check_teacher(divergence: str, hidden: Tensor | None, student_head: Tensor, head: Tensor | None) -> None:
    if (divergence == "none") != (hidden is None):
        raise ValueError(
            f"divergence {divergence!r} {'takes no teacher' if divergence == 'none' else 'needs teacher_hidden'}. "
            'Give teacher_hidden=None with divergence="none", and a teacher with every other.'
        )
    if head is not None and len(head) != len(student_head):
        raise ValueError(
            f"teacher_head and student_head must share a vocabulary, got {len(head)} and {len(student_head)} rows."
        )


def _check_ids(ids: Tensor, vocabulary: int) -> None:
    # Compiled rows would read beyond a buffer. On a GPU the check would wait for the device.
    if ids.device.type == "cpu" and len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        raise ValueError(
            f"ids must lie between 0 and {vocabulary - 1} wherever `mask` is true, got {int(ids.min())} to "
            f"{int(ids.max())}. Mask the tokens that have none."
        )
