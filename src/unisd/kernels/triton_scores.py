"""Triton kernels that score rows of logits, one program per row: statistics and divergence in one or two sweeps."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from unisd.kernels.triton_math import (
    GAP_LIMIT,
    INFINITE,
    LN2,
    LOWEST,
    NEAR,
    WIDELY_NEAR,
    absorb,
    anchored_mixture,
    block_offsets,
    difference,
    excess,
    exponential,
    load_block,
    load_one,
    log2_of_one_plus,
    memory_end,
    merge,
    mixture,
    polynomial,
    precise_log2,
)

# Rows of the output, (NUM_OUTPUTS, n); the last six are what the gradient needs of each row.
DIVERGENCE = tl.constexpr(0)
LOGP = tl.constexpr(1)  # + 1 for the teacher
ENTROPY = tl.constexpr(3)  # + 1 for the teacher
MAXIMUM = tl.constexpr(5)  # + 2 for the teacher
TOTAL = tl.constexpr(6)  # + 2 for the teacher
SHIFT = tl.constexpr(9)
CENTRE = tl.constexpr(10)
NUM_OUTPUTS = 11


@triton.jit
@no_type_check
def _softmax_sweep(
    logits, V, inner, outer, CAPPED: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, PTX: tl.constexpr
):
    offsets, end = block_offsets(LANES), memory_end(V, PADDED)
    total = tl.zeros((LANES,), tl.float32)
    maximum, moment = total + LOWEST, total
    num_full = V // (4 * LANES) * (4 * LANES)
    for start in range(0, num_full, 4 * LANES):
        u = load_block(logits + start, offsets, V, end, inner, CAPPED, False, PTX)
        maximum, total, moment, _, _ = absorb(u, outer, maximum, total, moment, PTX)
    if num_full < V:
        u = load_block(logits, offsets + num_full, V, end, inner, CAPPED, True, PTX)
        maximum, total, moment, _, _ = absorb(u, outer, maximum, total, moment, PTX)
    return merge(maximum, total, moment, PTX)


@triton.jit
@no_type_check
def _store_statistics(out, num_rows, realised, outer, maximum, total, entropy, MODEL: tl.constexpr):
    logp = LN2 * (tl.fma(realised, outer, -maximum) - precise_log2(total))
    tl.store(out + (LOGP + MODEL) * num_rows, tl.where(logp < -INFINITE, float("-inf"), logp))
    tl.store(out + (ENTROPY + MODEL) * num_rows, entropy)
    tl.store(out + (MAXIMUM + 2 * MODEL) * num_rows, maximum)
    tl.store(out + (TOTAL + 2 * MODEL) * num_rows, total)


@triton.jit
@no_type_check
def statistics_kernel(
    logits,
    ids,
    out,
    stride,
    num_rows,
    V,
    inner,
    outer,
    CAPPED: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
    PTX: tl.constexpr,
):
    """Log-probability of the realised token and entropy of one model, as the student's."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    top, total, entropy, _ = _softmax_sweep(logits, V, inner, outer, CAPPED, PADDED, LANES, PTX)
    realised = load_one(logits, tl.load(ids + row), inner, CAPPED, PTX)
    _store_statistics(out + row, num_rows, realised, outer, top, total, entropy, 0)


@triton.jit
@no_type_check
def _kl_block(
    p_logits, q_logits, offsets, V, end, p_inner, p_outer, q_inner, q_outer, shift,
    p_max, p_total, p_moment, value, near_gain, p_far, q_max, q_total, q_moment, q_far,
    P_CAPPED: tl.constexpr, Q_CAPPED: tl.constexpr, SHARED: tl.constexpr, MASKED: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    p = load_block(p_logits, offsets, V, end, p_inner, P_CAPPED, MASKED, PTX)
    q = load_block(q_logits, offsets, V, end, q_inner, Q_CAPPED, MASKED, PTX)
    p_max, p_total, p_moment, p_factor, p_weight = absorb(p, p_outer, p_max, p_total, p_moment, PTX)
    q_max, q_total, q_moment, q_factor, q_weight = absorb(q, q_outer, q_max, q_total, q_moment, PTX)
    gap = difference(p, q, p_outer, q_outer, shift, SHARED)
    is_near = tl.abs(gap) < NEAR
    small = excess(gap)
    linear = gap * LN2
    value = value * p_factor + tl.sum(p_weight * tl.where(is_near, small, -1.0 - linear), 1)
    near_gain = near_gain * p_factor + tl.sum(p_weight * tl.where(is_near, linear + small, 0.0), 1)
    p_far = p_far * p_factor + tl.sum(tl.where(is_near, 0.0, p_weight), 1)
    q_far = q_far * q_factor + tl.sum(tl.where(is_near, 0.0, q_weight), 1)
    return p_max, p_total, p_moment, value, near_gain, p_far, q_max, q_total, q_moment, q_far


@triton.jit
@no_type_check
def _kl_sweep(
    p_logits, q_logits, V, p_inner, p_outer, q_inner, q_outer, shift,
    P_CAPPED: tl.constexpr, Q_CAPPED: tl.constexpr, SHARED: tl.constexpr,
    PADDED: tl.constexpr, LANES: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    offsets, end = block_offsets(LANES), memory_end(V, PADDED)
    zeros = tl.zeros((LANES,), tl.float32)
    p_max, p_total, p_moment, value, near_gain, p_far = zeros + LOWEST, zeros, zeros, zeros, zeros, zeros
    q_max, q_total, q_moment, q_far = zeros + LOWEST, zeros, zeros, zeros
    num_full = V // (4 * LANES) * (4 * LANES)
    for start in range(0, num_full, 4 * LANES):
        p_max, p_total, p_moment, value, near_gain, p_far, q_max, q_total, q_moment, q_far = _kl_block(
            p_logits + start, q_logits + start, offsets, V, end, p_inner, p_outer, q_inner, q_outer, shift,
            p_max, p_total, p_moment, value, near_gain, p_far, q_max, q_total, q_moment, q_far,
            P_CAPPED, Q_CAPPED, SHARED, False, PTX,
        )  # fmt: skip
    if num_full < V:
        p_max, p_total, p_moment, value, near_gain, p_far, q_max, q_total, q_moment, q_far = _kl_block(
            p_logits, q_logits, offsets + num_full, V, end, p_inner, p_outer, q_inner, q_outer, shift,
            p_max, p_total, p_moment, value, near_gain, p_far, q_max, q_total, q_moment, q_far,
            P_CAPPED, Q_CAPPED, SHARED, True, PTX,
        )  # fmt: skip
    p_max, p_total, p_entropy, p_factor = merge(p_max, p_total, p_moment, PTX)
    q_max, q_total, q_entropy, q_factor = merge(q_max, q_total, q_moment, PTX)
    value = tl.sum(value * p_factor, 0) / p_total
    near_gain = tl.sum(near_gain * p_factor, 0) / p_total
    p_far = tl.sum(p_far * p_factor, 0) / p_total
    q_far = tl.sum(q_far * q_factor, 0) / q_total
    return p_max, p_total, p_entropy, q_max, q_total, q_entropy, value, near_gain, p_far, q_far


@triton.jit
@no_type_check
def kl_kernel(
    p_logits,
    q_logits,
    ids,
    out,
    p_stride,
    q_stride,
    num_rows,
    V,
    p_inner,
    p_outer,
    q_inner,
    q_outer,
    P_MODEL: tl.constexpr,
    P_CAPPED: tl.constexpr,
    Q_CAPPED: tl.constexpr,
    SHARED: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
    PTX: tl.constexpr,
):
    """KL(p || q) and the statistics of both in one sweep; P_MODEL: p is the student, 0, or the teacher, 1.

    With d = ln(q / p) up to a common shift, KL = sum p (e^d - 1 - d), less the same of what the shift left: no term is
    negative, so nearly equal distributions lose no digits. The realised token gives the shift. Where e^d might overflow
    ("far"), p (-1 - d) and the token's mass under q take its place.
    """
    row = tl.program_id(0).to(tl.int64)
    p_logits += row * p_stride
    q_logits += row * q_stride
    token = tl.load(ids + row)
    p = load_one(p_logits, token, p_inner, P_CAPPED, PTX)
    q = load_one(q_logits, token, q_inner, Q_CAPPED, PTX)
    gap = difference(p, q, p_outer, q_outer, 0.0, SHARED)
    shift = tl.where(tl.abs(gap) < INFINITE, -gap, 0.0)
    p_max, p_total, p_entropy, q_max, q_total, q_entropy, value, near_gain, p_far, q_far = _kl_sweep(
        p_logits, q_logits, V, p_inner, p_outer, q_inner, q_outer, shift,
        P_CAPPED, Q_CAPPED, SHARED, PADDED, LANES, PTX,
    )  # fmt: skip
    out += row
    _store_statistics(out, num_rows, p, p_outer, p_max, p_total, p_entropy, P_MODEL)
    _store_statistics(out, num_rows, q, q_outer, q_max, q_total, q_entropy, 1 - P_MODEL)
    left = (q_max - p_max) + precise_log2(q_total / p_total) + shift
    # Where little is left, it follows without cancellation from what it is the logarithm of.
    q_gain = q_far * tl.exp2(left) - p_far
    left = tl.where(tl.abs(left) < NEAR, log2_of_one_plus(near_gain + q_gain, PTX), left)
    divergence = value + tl.where(tl.abs(left) < NEAR, p_far + q_gain - excess(left), p_far - near_gain + left * LN2)
    divergence = tl.where(divergence > INFINITE, float("inf"), divergence)
    tl.store(out + DIVERGENCE * num_rows, divergence)
    tl.store(out + SHIFT * num_rows, left - shift if P_MODEL == 1 else shift - left)
    tl.store(out + CENTRE * num_rows, divergence)


@triton.jit
@no_type_check
def _jsd_block(
    s_logits, t_logits, offsets, V, end, s_inner, s_outer, t_inner, t_outer,
    s_max, s_scale, t_max, t_scale, shift, beta, rest, balance, value, centre,
    S_CAPPED: tl.constexpr, T_CAPPED: tl.constexpr, SHARED: tl.constexpr, MASKED: tl.constexpr,
    SERIES: tl.constexpr, ACCURATE: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    s = load_block(s_logits, offsets, V, end, s_inner, S_CAPPED, MASKED, PTX)
    t = load_block(t_logits, offsets, V, end, t_inner, T_CAPPED, MASKED, PTX)
    gap = difference(s, t, s_outer, t_outer, shift, SHARED)
    s = exponential(tl.fma(s, s_outer, -s_max), PTX) * s_scale
    t = exponential(tl.fma(t, t_outer, -t_max), PTX) * t_scale
    if ACCURATE:
        is_teacher, lighter_gap, log_mixture = anchored_mixture(gap, beta, rest, balance, PTX)
        lighter = tl.where(is_teacher, rest * s, beta * t)
        large = lighter * lighter_gap - tl.fma(beta, t, rest * s) * log_mixture
        log_mixture = tl.where(is_teacher, log_mixture - lighter_gap, log_mixture)
    else:
        gap = tl.minimum(gap, GAP_LIMIT)
        log_mixture = mixture(gap, beta, rest, PTX)
        large = tl.fma(beta * t, gap - log_mixture, -(rest * s) * log_mixture)
    small = s * (gap * gap * polynomial(gap, SERIES, 8))
    value += tl.sum(tl.where(tl.abs(gap) < WIDELY_NEAR, small, large), 1)
    centre += tl.sum(s * log_mixture, 1)
    return value, centre


@triton.jit
@no_type_check
def _jsd_sweep(
    s_logits, t_logits, V, s_inner, s_outer, t_inner, t_outer,
    s_max, s_scale, t_max, t_scale, shift, beta, rest, balance,
    S_CAPPED: tl.constexpr, T_CAPPED: tl.constexpr, SHARED: tl.constexpr, SERIES: tl.constexpr,
    ACCURATE: tl.constexpr, PADDED: tl.constexpr, LANES: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    offsets, end = block_offsets(LANES), memory_end(V, PADDED)
    value = tl.zeros((LANES,), tl.float32)
    centre = value
    num_full = V // (4 * LANES) * (4 * LANES)
    for start in range(0, num_full, 4 * LANES):
        value, centre = _jsd_block(
            s_logits + start, t_logits + start, offsets, V, end, s_inner, s_outer, t_inner, t_outer,
            s_max, s_scale, t_max, t_scale, shift, beta, rest, balance, value, centre,
            S_CAPPED, T_CAPPED, SHARED, False, SERIES, ACCURATE, PTX,
        )  # fmt: skip
    if num_full < V:
        value, centre = _jsd_block(
            s_logits, t_logits, offsets + num_full, V, end, s_inner, s_outer, t_inner, t_outer,
            s_max, s_scale, t_max, t_scale, shift, beta, rest, balance, value, centre,
            S_CAPPED, T_CAPPED, SHARED, True, SERIES, ACCURATE, PTX,
        )  # fmt: skip
    return tl.sum(value, 0) * LN2, tl.sum(centre, 0)


@triton.jit
@no_type_check
def jsd_kernel(
    s_logits,
    t_logits,
    ids,
    out,
    s_stride,
    t_stride,
    num_rows,
    V,
    s_inner,
    s_outer,
    t_inner,
    t_outer,
    beta,
    rest,
    balance,
    S_CAPPED: tl.constexpr,
    T_CAPPED: tl.constexpr,
    SHARED: tl.constexpr,
    SERIES: tl.constexpr,
    ACCURATE: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
    PTX: tl.constexpr,
):
    """beta KL(t || m) + (1 - beta) KL(s || m), m = beta t + (1 - beta) s, and the statistics of both, in two sweeps.

    A token's share beta t ln(t / m) + (1 - beta) s ln(s / m) is never negative; where t is near s it comes from its
    power series in log2(t / s). The centre is the mean of log2(m / s) under s. `rest` is 1 - beta.
    """
    row = tl.program_id(0).to(tl.int64)
    s_logits += row * s_stride
    t_logits += row * t_stride
    s_max, s_total, s_entropy, _ = _softmax_sweep(s_logits, V, s_inner, s_outer, S_CAPPED, PADDED, LANES, PTX)
    t_max, t_total, t_entropy, _ = _softmax_sweep(t_logits, V, t_inner, t_outer, T_CAPPED, PADDED, LANES, PTX)
    token = tl.load(ids + row)
    s = load_one(s_logits, token, s_inner, S_CAPPED, PTX)
    t = load_one(t_logits, token, t_inner, T_CAPPED, PTX)
    out += row
    # Before the second sweep, so that it does not have to keep them.
    _store_statistics(out, num_rows, s, s_outer, s_max, s_total, s_entropy, 0)
    _store_statistics(out, num_rows, t, t_outer, t_max, t_total, t_entropy, 1)
    shift = (s_max - t_max) + precise_log2(s_total / t_total)
    tl.store(out + SHIFT * num_rows, shift)
    divergence, centre = _jsd_sweep(
        s_logits, t_logits, V, s_inner, s_outer, t_inner, t_outer,
        s_max, 1.0 / s_total, t_max, 1.0 / t_total, shift, beta, rest, balance,
        S_CAPPED, T_CAPPED, SHARED, SERIES, ACCURATE, PADDED, LANES, PTX,
    )  # fmt: skip
    tl.store(out + DIVERGENCE * num_rows, divergence)
    tl.store(out + CENTRE * num_rows, centre)
