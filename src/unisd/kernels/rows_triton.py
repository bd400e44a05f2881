"""Rows on a GPU (CUDA, ROCm, XPU): launches the Triton kernels, one program per row.

Import this module only where it runs: it needs `triton`, which comes with PyTorch for GPUs. Buffers whose row stride is
a multiple of 16 are read 128 bits at a time, whatever the vocabulary; others give the same numbers more slowly.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from unisd.kernels.rows import AfterHead, PairScores, RowSpec, RowStatistics
from unisd.kernels.series import near_series
from unisd.kernels.triton_gradient import gradient_kernel
from unisd.kernels.triton_scores import NUM_OUTPUTS, jsd_kernel, kl_kernel, statistics_kernel

LANES = 512
"""Groups of four logits that a program reads at a time; a power of two."""
_STRIDE = 16
NUM_THREADS = 256
"""Of a program."""
PLAIN_BETAS = (0.25, 0.75)
"""Between these, `jsd` needs no logarithm that is accurate for mixtures of nearly one component."""

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
    raise ImportError(f"triton {triton.__version__} is too old for the kernels, which need 3.4")


class _Side(NamedTuple):
    """One model's logits, in bits outer * z, or outer * tanh(inner * z) under a soft cap."""

    logits: Tensor
    inner: float
    outer: float
    is_capped: bool


@dataclass(frozen=True)
class TritonRows:
    """The row protocol in Triton. The buffers stay as `pair` found them.

    `gradient` also takes a bfloat16 or float16 view of the student's or the teacher's buffer as `out`, which saves the
    pass that would round the gradient for a low-precision head: `buffer.view(torch.bfloat16)[:, :V]`.
    """

    lanes: int = LANES
    """Smaller ones are for tests, so that short rows take more than one block."""

    def statistics(
        self, logits: Float[Tensor, "n V"], ids: Int[Tensor, " n"], *, after: AfterHead, inverse_temperature: float
    ) -> RowStatistics:
        """Realised log-probability and entropy."""
        out = self._statistics(_side(logits, after, inverse_temperature), ids)
        return RowStatistics(out[1], out[3])

    def pair(
        self,
        student_logits: Float[Tensor, "n V"],
        teacher_logits: Float[Tensor, "n V"] | None,
        ids: Int[Tensor, " n"],
        spec: RowSpec,
        *,
        has_gradient: bool,
    ) -> PairScores:
        """Everything about each row."""
        student = _side(student_logits, spec.student, spec.inverse_temperature)
        if spec.divergence == "none":
            out = self._statistics(student, ids)
            return PairScores(None, out[1], None, out[3], None, (out,))
        assert teacher_logits is not None, "only `none` goes without a teacher"
        teacher = _side(teacher_logits, spec.teacher, spec.inverse_temperature)
        if spec.divergence == "jsd":
            out = self._jsd(student, teacher, ids, spec.beta)
        elif spec.divergence == "forward_kl":
            out = self._kl(teacher, student, ids, p_model=1)
        else:
            out = self._kl(student, teacher, ids, p_model=0)
        return PairScores(out[0], out[1], out[2], out[3], out[4], (out,))

    def gradient(
        self,
        student_logits: Float[Tensor, "n V"],
        teacher_logits: Float[Tensor, "n V"] | None,
        ids: Int[Tensor, " n"],
        spec: RowSpec,
        scores: PairScores,
        *,
        divergence_weight: Float[Tensor, " n"] | None,
        logp_weight: Float[Tensor, " n"] | None,
        out: Float[Tensor, "n V"],
    ) -> None:
        """d/dz_student of sum_i divergence_weight_i D_i + logp_weight_i logp_i, written over `out`."""
        kind = "none" if divergence_weight is None else spec.divergence
        student = teacher = _side(student_logits, spec.student, spec.inverse_temperature)
        if kind != "none":
            assert teacher_logits is not None, "only `none` goes without a teacher"
            teacher = _side(teacher_logits, spec.teacher, spec.inverse_temperature)
        context = scores.context[0]
        arguments = {
            "s_logits": student.logits,
            "t_logits": teacher.logits,
            "ids": ids,
            "context": context,
            # A kernel takes no None; these are not read where the weight is 0 everywhere.
            "divergence_weight": context if divergence_weight is None else divergence_weight.float().contiguous(),
            "logp_weight": context if logp_weight is None else logp_weight.float().contiguous(),
            "out": out,
            "s_stride": _stride(student.logits),
            "t_stride": _stride(teacher.logits),
            "out_stride": _stride(out),
            "HAS_LOGP": logp_weight is not None,
            "PADDED": all(map(_is_padded, (student.logits, teacher.logits, out))),
            **_pair_arguments(student, teacher),
            **_mixture_arguments(spec.beta),
            **gradient_variant(kind, spec.beta, narrow=out.element_size() < student_logits.element_size()),
        }
        self._launch(gradient_kernel, student.logits, arguments)

    def _statistics(self, side: _Side, ids: Tensor) -> Tensor:
        out = side.logits.new_empty(NUM_OUTPUTS, len(ids))
        arguments = {
            "logits": side.logits,
            "ids": ids,
            "out": out,
            "stride": _stride(side.logits),
            "inner": side.inner,
            "outer": side.outer,
            "CAPPED": side.is_capped,
            "PADDED": _is_padded(side.logits),
        }
        self._launch(statistics_kernel, side.logits, arguments)
        return out

    def _kl(self, p: _Side, q: _Side, ids: Tensor, *, p_model: int) -> Tensor:
        out = p.logits.new_empty(NUM_OUTPUTS, len(ids))
        arguments = {
            "p_logits": p.logits,
            "q_logits": q.logits,
            "ids": ids,
            "out": out,
            "p_stride": _stride(p.logits),
            "q_stride": _stride(q.logits),
            "P_MODEL": p_model,
            "PADDED": _is_padded(p.logits) and _is_padded(q.logits),
            **_pair_arguments(p, q, names="pq"),
        }
        self._launch(kl_kernel, p.logits, arguments)
        return out

    def _jsd(self, student: _Side, teacher: _Side, ids: Tensor, beta: float) -> Tensor:
        out = student.logits.new_empty(NUM_OUTPUTS, len(ids))
        arguments = {
            "s_logits": student.logits,
            "t_logits": teacher.logits,
            "ids": ids,
            "out": out,
            "s_stride": _stride(student.logits),
            "t_stride": _stride(teacher.logits),
            "PADDED": _is_padded(student.logits) and _is_padded(teacher.logits),
            **_pair_arguments(student, teacher),
            **_mixture_arguments(beta),
            **jsd_variant(beta),
        }
        self._launch(jsd_kernel, student.logits, arguments)
        return out

    def _launch(self, kernel: Any, logits: Tensor, arguments: dict[str, Any]) -> None:
        num_rows, vocabulary = logits.shape
        if num_rows == 0:
            return
        is_amd = torch.version.hip is not None
        is_compiled = isinstance(kernel, triton.JITFunction)
        with _on_device_of(logits):
            kernel[(num_rows,)](
                **arguments,
                num_rows=num_rows,
                V=vocabulary,
                LANES=self.lanes,
                PTX=is_compiled and logits.is_cuda and not is_amd,
                num_warps=NUM_THREADS // (64 if is_amd else 32),
                enable_fp_fusion=True,
            )


def jsd_variant(beta: float) -> dict[str, Any]:
    """Which `jsd_kernel` is compiled for a beta."""
    # Swapping the models turns beta into 1 - beta and d into -d; the kernels count from the student, and in bits.
    value, _ = near_series("jsd", 1.0 - beta)
    return {"SERIES": _in_bits(value, order=2), "ACCURATE": _is_extreme(beta)}


def gradient_variant(kind: str, beta: float, *, narrow: bool) -> dict[str, Any]:
    """Which `gradient_kernel` is compiled for a divergence, its beta and an output of fewer bits than the logits."""
    _, slope = near_series("jsd", 1.0 - beta)
    log_mixture = (beta, *(-coefficient / beta for coefficient in slope[1:]))
    is_extreme = kind == "jsd" and _is_extreme(beta)
    series = _in_bits(log_mixture, order=1) if kind == "jsd" else ()
    return {"KIND": kind, "SERIES": series, "ACCURATE": is_extreme, "NARROW": narrow}


def _is_extreme(beta: float) -> bool:
    return not PLAIN_BETAS[0] <= beta <= PLAIN_BETAS[1]


def _in_bits(coefficients: tuple[float, ...], *, order: int) -> tuple[float, ...]:
    """The same series, value and variable counted in bits; the first coefficient is that of this order."""
    return tuple(value * math.log(2) ** (order - 1 + k) for k, value in enumerate(coefficients))


@lru_cache(maxsize=64)
def _outer(after: AfterHead, inverse_temperature: float) -> float:
    height = after.scale if after.softcap is None else after.softcap
    if not height * inverse_temperature > 0:
        raise ValueError(
            f"The Triton rows need a positive scale or softcap, and temperature, got {after} and "
            f"{inverse_temperature=}. Use impl: torch."
        )
    return height * inverse_temperature * math.log2(math.e)


def _side(logits: Tensor, after: AfterHead, inverse_temperature: float) -> _Side:
    if logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ValueError(
            f"The Triton rows take float32 logits whose columns are contiguous, got {logits.dtype} with strides "
            f"{logits.stride()}. Use impl: torch."
        )
    inner = 1.0 if after.softcap is None else after.scale / after.softcap
    return _Side(logits, inner, _outer(after, inverse_temperature), after.softcap is not None)


def _pair_arguments(first: _Side, second: _Side, *, names: str = "st") -> dict[str, Any]:
    a, b = names
    return {
        f"{a}_inner": first.inner,
        f"{a}_outer": first.outer,
        f"{b}_inner": second.inner,
        f"{b}_outer": second.outer,
        f"{a.upper()}_CAPPED": first.is_capped,
        f"{b.upper()}_CAPPED": second.is_capped,
        "SHARED": first.outer == second.outer,
    }


def _mixture_arguments(beta: float) -> dict[str, float]:
    return {"beta": beta, "rest": 1.0 - beta, "balance": math.log2((1.0 - beta) / beta)}


def _stride(rows: Tensor) -> int:
    # The stride of a single row is never used, and PyTorch gives it any value; this one keeps loads wide.
    return rows.stride(0) if len(rows) > 1 else _STRIDE


def _is_padded(rows: Tensor) -> bool:
    """Whether each row, and the room behind it up to a multiple of 16, is there to be read and written."""
    num_rows, vocabulary = rows.shape
    end = rows.storage_offset() + (num_rows - 1) * rows.stride(0) + -(-vocabulary // _STRIDE) * _STRIDE
    return _stride(rows) % _STRIDE == 0 and end <= rows.untyped_storage().nbytes() // rows.element_size()


def _on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    guards = {"cuda": torch.cuda.device_of, "xpu": torch.xpu.device_of}
    return guards.get(tensor.device.type, nullcontext)(tensor)
