"""Triton kernel that writes the gradient of a row's divergence and log-probability over the row itself."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from unisd.kernels.triton_math import (
    GAP_LIMIT,
    LN2,
    NEAR,
    anchored_mixture,
    block_offsets,
    difference,
    excess,
    exponential,
    load_block,
    load_one,
    memory_end,
    mixture,
    polynomial,
)
from unisd.kernels.triton_scores import CENTRE, MAXIMUM, SHIFT, TOTAL


@triton.jit
@no_type_check
def _score_gradient(
    s, t, s_outer, t_outer, s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
    KIND: tl.constexpr, SHARED: tl.constexpr, SERIES: tl.constexpr, ACCURATE: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    # s times (slope * a logarithm + level), where s and t are taken relative to their maxima.
    weight = exponential(tl.fma(s, s_outer, -s_max), PTX)
    if KIND == "none":
        return weight * level
    else:
        gap = difference(s, t, s_outer, t_outer, shift, SHARED)
        if KIND == "forward_kl":
            # s - t, which is s (1 - e^gap), and where both are nearly equal must not be subtracted.
            near = weight * tl.fma(tl.fma(gap, LN2, excess(gap)), slope, level)
            far = tl.fma(exponential(tl.fma(t, t_outer, -t_max), PTX), t_scale, weight * (level - slope))
            return tl.where(tl.abs(gap) < NEAR, near, far)
        elif KIND == "reverse_kl":
            return weight * tl.fma(gap, slope, level)
        elif ACCURATE:
            is_teacher, lighter_gap, log_mixture = anchored_mixture(gap, beta, rest, balance, PTX)
            log_mixture = tl.where(is_teacher, log_mixture - lighter_gap, log_mixture)
            return weight * tl.fma(log_mixture, slope, level)
        else:
            gap = tl.minimum(gap, GAP_LIMIT)
            small = gap * polynomial(gap, SERIES, 6)
            log_mixture = tl.where(tl.abs(gap) < NEAR, small, mixture(gap, beta, rest, PTX))
            return weight * tl.fma(log_mixture, slope, level)


@triton.jit
@no_type_check
def _write_zeros(out, V, PADDED: tl.constexpr, LANES: tl.constexpr):
    zeros = tl.zeros((LANES, 4), tl.float32).to(out.dtype.element_ty)
    offsets, end = block_offsets(LANES), memory_end(V, PADDED)
    for start in range(0, V, 4 * LANES):
        tl.store(out + start + offsets, zeros, mask=start + offsets < end)


@triton.jit
@no_type_check
def _coefficients(context, num_rows, divergence_weight, logp_weight, rest, chain, KIND: tl.constexpr):
    # s times (slope * logarithm + level), plus t times t_scale, all times the chain rule's constant.
    s_scale = chain / tl.load(context + TOTAL * num_rows)
    level = -logp_weight * s_scale
    slope, t_scale = level, level
    if KIND == "forward_kl":
        slope = -divergence_weight * s_scale
        t_scale = -divergence_weight * chain / tl.load(context + (TOTAL + 2) * num_rows)
    elif KIND == "reverse_kl":
        slope = -divergence_weight * s_scale * LN2
        # An infinite divergence of weight 0 adds nothing.
        pull = divergence_weight * s_scale * tl.load(context + CENTRE * num_rows)
        level -= tl.where(divergence_weight == 0.0, 0.0, pull)
    elif KIND == "jsd":
        slope = -divergence_weight * s_scale * rest * LN2
        level -= slope * tl.load(context + CENTRE * num_rows)
    return slope, level, t_scale


@triton.jit
@no_type_check
def _gradient_block(
    s_logits, t_logits, out, offsets, V, end, s_inner, s_outer, t_inner, t_outer,
    s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
    KIND: tl.constexpr, S_CAPPED: tl.constexpr, T_CAPPED: tl.constexpr, SHARED: tl.constexpr, SERIES: tl.constexpr,
    ACCURATE: tl.constexpr, NARROW: tl.constexpr, MASKED: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    s = load_block(s_logits, offsets, V, end, s_inner, S_CAPPED, MASKED, PTX)
    t = s
    if KIND != "none":
        t = load_block(t_logits, offsets, V, end, t_inner, T_CAPPED, MASKED, PTX)
    gradient = _score_gradient(
        s, t, s_outer, t_outer, s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
        KIND, SHARED, SERIES, ACCURATE, PTX,
    )  # fmt: skip
    if S_CAPPED:
        gradient *= tl.fma(-s, s, 1.0)
    if NARROW:
        # The narrow row lies over the first half of the wide one: all of this block is read before any is written.
        tl.debug_barrier()
    gradient = gradient.to(out.dtype.element_ty)
    if MASKED:
        tl.store(out + offsets, tl.where(offsets < V, gradient, 0.0), mask=offsets < end)
    else:
        tl.store(out + offsets, gradient)


@triton.jit
@no_type_check
def _gradient_sweep(
    s_logits, t_logits, out, V, s_inner, s_outer, t_inner, t_outer,
    s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
    KIND: tl.constexpr, S_CAPPED: tl.constexpr, T_CAPPED: tl.constexpr, SHARED: tl.constexpr, SERIES: tl.constexpr,
    ACCURATE: tl.constexpr, NARROW: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    offsets, end = block_offsets(LANES), memory_end(V, PADDED)
    num_full = V // (4 * LANES) * (4 * LANES)
    for start in range(0, num_full, 4 * LANES):
        _gradient_block(
            s_logits + start, t_logits + start, out + start, offsets, V, end, s_inner, s_outer, t_inner, t_outer,
            s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
            KIND, S_CAPPED, T_CAPPED, SHARED, SERIES, ACCURATE, NARROW, False, PTX,
        )  # fmt: skip
    if num_full < V:
        _gradient_block(
            s_logits, t_logits, out, offsets + num_full, V, end, s_inner, s_outer, t_inner, t_outer,
            s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
            KIND, S_CAPPED, T_CAPPED, SHARED, SERIES, ACCURATE, NARROW, True, PTX,
        )  # fmt: skip


@triton.jit
@no_type_check
def _gradient_row(
    s_logits, t_logits, token, context, out, on_divergence, on_logp, num_rows, V,
    s_inner, s_outer, t_inner, t_outer, beta, rest, balance,
    KIND: tl.constexpr, S_CAPPED: tl.constexpr, T_CAPPED: tl.constexpr, SHARED: tl.constexpr, SERIES: tl.constexpr,
    ACCURATE: tl.constexpr, NARROW: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    chain = s_outer * LN2
    if S_CAPPED:
        chain *= s_inner
    slope, level, t_scale = _coefficients(context, num_rows, on_divergence, on_logp, rest, chain, KIND)
    s_max = tl.load(context + MAXIMUM * num_rows)
    s = load_one(s_logits, token, s_inner, S_CAPPED, PTX)
    t, t_max, shift = s, s_max, s_max
    if KIND != "none":
        t_max = tl.load(context + (MAXIMUM + 2) * num_rows)
        shift = tl.load(context + SHIFT * num_rows)
        t = load_one(t_logits, token, t_inner, T_CAPPED, PTX)
    realised = on_logp * chain + _score_gradient(
        s, t, s_outer, t_outer, s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
        KIND, SHARED, SERIES, ACCURATE, PTX,
    )  # fmt: skip
    if S_CAPPED:
        realised *= tl.fma(-s, s, 1.0)
    # The realised token is read before any thread writes, and written after every thread has.
    tl.debug_barrier()
    _gradient_sweep(
        s_logits, t_logits, out, V, s_inner, s_outer, t_inner, t_outer,
        s_max, t_max, shift, beta, rest, balance, slope, level, t_scale,
        KIND, S_CAPPED, T_CAPPED, SHARED, SERIES, ACCURATE, NARROW, PADDED, LANES, PTX,
    )  # fmt: skip
    tl.debug_barrier()
    tl.store(out + token, realised.to(out.dtype.element_ty))


@triton.jit
@no_type_check
def gradient_kernel(
    s_logits,
    t_logits,
    ids,
    context,
    divergence_weight,
    logp_weight,
    out,
    s_stride,
    t_stride,
    out_stride,
    num_rows,
    V,
    s_inner,
    s_outer,
    t_inner,
    t_outer,
    beta,
    rest,
    balance,
    KIND: tl.constexpr,
    HAS_LOGP: tl.constexpr,
    S_CAPPED: tl.constexpr,
    T_CAPPED: tl.constexpr,
    SHARED: tl.constexpr,
    SERIES: tl.constexpr,
    ACCURATE: tl.constexpr,
    NARROW: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
    PTX: tl.constexpr,
):
    """d/dz of weight times divergence + weight times log-probability, over `out`: one of the two rows, maybe narrower.

    `context` is the output of the scoring kernel. KIND "none" reads the student only.
    """
    row = tl.program_id(0).to(tl.int64)
    out += row * out_stride
    on_divergence, on_logp = 0.0, 0.0
    if KIND != "none":
        on_divergence = tl.load(divergence_weight + row)
    if HAS_LOGP:
        on_logp = tl.load(logp_weight + row)
    if (on_divergence == 0.0) & (on_logp == 0.0):
        _write_zeros(out, V, PADDED, LANES)
    else:
        _gradient_row(
            s_logits + row * s_stride, t_logits + row * t_stride, tl.load(ids + row), context + row, out,
            on_divergence, on_logp, num_rows, V, s_inner, s_outer, t_inner, t_outer, beta, rest, balance,
            KIND, S_CAPPED, T_CAPPED, SHARED, SERIES, ACCURATE, NARROW, PADDED, LANES, PTX,
        )  # fmt: skip
