"""What the Triton kernels share: loads, base-2 arithmetic, polynomials and the softmax of a row in one sweep.

A block has the shape (lanes, 4): the four logits of a lane are neighbours in memory and live in one thread, so that a
load is 128 bits wide and the sums over a lane cost no exchange between threads. Logits are counted in bits,
x = outer * u, where u is the head's output z, or tanh(inner * z) under a soft cap, and `outer` holds everything else:
scale or cap, 1 / temperature and log2(e). `PTX` picks NVIDIA's own instructions.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

# `no_type_check` on every kernel: a checker of annotations at run time would wrap it and hide its source from Triton.

FLOOR = tl.constexpr(-1.0e30)
"""Stands for -inf, so that 0 times it is 0. NaN and +inf stay what they are."""
LOWEST = tl.constexpr(-1.0e20)
"""Maximum, in bits, of no logits at all: far above the floor, so that a lane of nothing else has no weight."""
INFINITE = tl.constexpr(1.0e12)
"""What is beyond this, in bits or nats, comes from the floor."""
LN2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950408889634)

GAP_LIMIT = tl.constexpr(30.0)
"""Bits by which the teacher's log-probability exceeds the student's where only the teacher counts in a mixture."""
NEAR = tl.constexpr(0.5)
"""Bits of difference between two log-probabilities below which power series take over."""
WIDELY_NEAR = tl.constexpr(0.75)
"""The same for the values of `jsd`, whose other form loses more digits."""
# k-th entry: ln(2)^(k+2) / (k+2)!, so that e^x - 1 - x = d^2 (c0 + c1 d + ...) for x = d ln 2.
EXCESS = tl.constexpr(
    (0.240226506959101, 0.0555041086648216, 0.00961812910762848, 0.00133335581464284, 0.000154035303933816, 1.525273e-5)
)
# k-th entry: 2 / ((2k + 1) ln 2), so that log2((1 + y) / (1 - y)) = y (c0 + c1 y^2 + ...).
LOG_RATIO = tl.constexpr(
    (2.885390081777927, 0.961796693925976, 0.577078016355585, 0.412198583111132, 0.320598897975325, 0.262308189252539)
)


@triton.jit
@no_type_check
def exponential(bits, PTX: tl.constexpr):
    """2^bits; what is below 2^-126 becomes 0, which saves the instructions that would keep it."""
    if PTX:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [bits], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.exp2(bits)


@triton.jit
@no_type_check
def logarithm(positive, PTX: tl.constexpr):
    """log2(positive), off by 2^-22 at most around 1, absolute."""
    if PTX:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [positive], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(positive)


@triton.jit
@no_type_check
def reciprocal(number, PTX: tl.constexpr):
    """1 / number, to one unit in the last place."""
    if PTX:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [number], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / number


@triton.jit
@no_type_check
def polynomial(x, COEFFICIENTS: tl.constexpr, LENGTH: tl.constexpr):
    """COEFFICIENTS[0] + COEFFICIENTS[1] x + ... by Horner's rule."""
    total = tl.fma(x, COEFFICIENTS[LENGTH - 1], COEFFICIENTS[LENGTH - 2])
    for i in tl.static_range(2, LENGTH):
        total = tl.fma(total, x, COEFFICIENTS[LENGTH - 1 - i])
    return total


@triton.jit
@no_type_check
def excess(bits):
    """e^x - 1 - x for x = bits ln 2, |bits| below `NEAR`, without cancellation."""
    return bits * bits * polynomial(bits, EXCESS, 6)


@triton.jit
@no_type_check
def precise_log2(positive):
    """log2 to the last place, for a few numbers per row; NaN stays NaN."""
    word = positive.to(tl.int32, bitcast=True)
    exponent = (word >> 23) - 127
    mantissa = ((word & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)  # 1 to 2
    is_high = mantissa > 1.4142135
    exponent = tl.where(is_high, exponent + 1, exponent)
    mantissa = tl.where(is_high, 0.5 * mantissa, mantissa)
    y = (mantissa - 1.0) / (mantissa + 1.0)
    return tl.fma(y, polynomial(y * y, LOG_RATIO, 6), exponent.to(tl.float32)) + 0.0 * positive


@triton.jit
@no_type_check
def log2_of_one_plus(x, PTX: tl.constexpr):
    """log2(1 + x) for |x| below 0.42, without cancellation."""
    y = x * reciprocal(2.0 + x, PTX)
    return y * polynomial(y * y, LOG_RATIO, 6)


@triton.jit
@no_type_check
def block_offsets(LANES: tl.constexpr):
    """Positions of the first block's logits in their row, (LANES, 4)."""
    return tl.arange(0, LANES)[:, None] * 4 + tl.arange(0, 4)[None, :]


@triton.jit
@no_type_check
def memory_end(V, PADDED: tl.constexpr):
    """First position that must not be read. A multiple of 16 keeps masked loads wide, whatever V is."""
    if PADDED:
        return (V + 15) // 16 * 16
    else:
        return V


@triton.jit
@no_type_check
def _squash(logits, inner, CAPPED: tl.constexpr, PTX: tl.constexpr):
    # Neither bound hides a NaN. NVIDIA has a maximum that keeps it; elsewhere a comparison is the cheaper way.
    if PTX:
        logits = tl.maximum(logits, FLOOR, propagate_nan=tl.PropagateNan.ALL)
    else:
        logits = tl.where(logits < FLOOR, FLOOR, logits)
    if CAPPED:
        bits = logits * (inner * (2.0 * LOG2_E))
        bits = tl.where(bits > GAP_LIMIT, GAP_LIMIT, bits)
        growth = tl.where(tl.abs(bits) < NEAR, tl.fma(bits, LN2, excess(bits)), exponential(bits, PTX) - 1.0)
        return growth * reciprocal(2.0 + growth, PTX)
    else:
        return logits


@triton.jit
@no_type_check
def load_one(row, token, inner, CAPPED: tl.constexpr, PTX: tl.constexpr):
    """u of one token."""
    return _squash(tl.load(row + token), inner, CAPPED, PTX)


@triton.jit
@no_type_check
def load_block(row, offsets, V, end, inner, CAPPED: tl.constexpr, MASKED: tl.constexpr, PTX: tl.constexpr):
    """u of a block of one row, and the floor where that is past V."""
    if MASKED:
        squashed = _squash(tl.load(row + offsets, mask=offsets < end, other=FLOOR), inner, CAPPED, PTX)
        return tl.where(offsets < V, squashed, FLOOR)
    else:
        return _squash(tl.load(row + offsets), inner, CAPPED, PTX)


@triton.jit
@no_type_check
def difference(first, second, first_outer, second_outer, shift, SHARED: tl.constexpr):
    """Bits by which the second model's logits exceed the first's, plus `shift`; exact for nearly equal ones if SHARED.

    SHARED: both have the same `outer`. The logits are then subtracted before anything is rounded.
    """
    if SHARED:
        return tl.fma(second - first, second_outer, shift)
    else:
        return tl.fma(second, second_outer, tl.fma(first, -first_outer, shift))


@triton.jit
@no_type_check
def absorb(squashed, outer, maximum, total, moment, PTX: tl.constexpr):
    """One more block of a softmax: per lane the maximum, sum w and sum w (x - maximum), with w = 2^(x - maximum).

    Returns also the factor on everything that was summed under the old maximum, and the weights w.
    """
    highest = tl.maximum(maximum, tl.max(squashed, 1) * outer)
    drop = maximum - highest
    factor = exponential(drop, PTX)
    bits = tl.fma(squashed, outer, -highest[:, None])
    weights = exponential(bits, PTX)
    moment = tl.fma(drop, total, moment) * factor + tl.sum(weights * bits, 1)
    total = total * factor + tl.sum(weights, 1)
    return highest, total, moment, factor, weights


@triton.jit
@no_type_check
def merge(maximum, total, moment, PTX: tl.constexpr):
    """The lanes' softmax states as one: maximum, sum, entropy in nats, and the factor on each lane's other sums."""
    highest = tl.max(maximum, 0)
    drop = maximum - highest
    factor = exponential(drop, PTX)
    moment = tl.sum(tl.fma(drop, total, moment) * factor, 0)
    total = tl.sum(total * factor, 0)
    entropy = LN2 * (precise_log2(total) - moment / total)
    return highest, total, entropy, factor


@triton.jit
@no_type_check
def mixture(gap, beta, rest, PTX: tl.constexpr):
    """log2(m / s) for m = beta t + (1 - beta) s and gap = log2(t / s), at most `GAP_LIMIT`; `rest` is 1 - beta."""
    return logarithm(tl.fma(exponential(gap, PTX), beta, rest), PTX)


@triton.jit
@no_type_check
def anchored_mixture(gap, beta, rest, balance, PTX: tl.constexpr):
    """The same relative to the heavier of beta t and (1 - beta) s: full relative accuracy for any beta and any gap.

    Returns whether the teacher is the heavier, log2(lighter / heavier) without the factors, and log2(m / heavier).
    """
    is_teacher = gap > balance
    lighter_gap = tl.where(is_teacher, -gap, gap)
    lighter, heavier = tl.where(is_teacher, rest, beta), tl.where(is_teacher, beta, rest)
    ratio = exponential(lighter_gap, PTX)
    series = tl.fma(lighter_gap, LN2, excess(lighter_gap))
    growth = lighter * tl.where(tl.abs(lighter_gap) < NEAR, series, ratio - 1.0)
    large = logarithm(tl.fma(lighter, ratio, heavier), PTX)
    return is_teacher, lighter_gap, tl.where(tl.abs(growth) < 0.4, log2_of_one_plus(growth, PTX), large)
