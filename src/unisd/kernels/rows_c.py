"""Rows on a CPU in C: `csrc/rows.c` through ctypes, the rows of a chunk split over as many threads as PyTorch uses."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from unisd.kernels.rows import AfterHead, PairScores, RowSpec, RowStatistics
from unisd.kernels.series import NEAR, NUM_TERMS, near_series

_DIVERGENCES = {"none": 0, "forward_kl": 1, "reverse_kl": 2, "jsd": 3}
_FEWEST_LOGITS = 2**18
"""Below as many a second thread is not worth starting."""
_ROWS_AT_A_TIME = 8
"""Rows that a thread takes before it comes back for more."""


class _After(ctypes.Structure):
    _fields_ = (("scale", ctypes.c_float), ("softcap", ctypes.c_float))


class _Spec(ctypes.Structure):
    _fields_ = (
        ("divergence", ctypes.c_int32),
        ("inverse_temperature", ctypes.c_float),
        ("student", _After),
        ("teacher", _After),
        ("beta", ctypes.c_float),
        ("rest", ctypes.c_float),
        ("log_beta", ctypes.c_float),
        ("log_rest", ctypes.c_float),
        ("near", ctypes.c_float),
        ("near_value", ctypes.c_float * NUM_TERMS),
        ("near_slope", ctypes.c_float * NUM_TERMS),
    )


def declare(library: ctypes.CDLL) -> None:
    """Tell ctypes the arguments of `csrc/rows.c`; calls release the interpreter's lock."""
    address, count = ctypes.c_void_p, ctypes.c_int64
    after, spec = ctypes.POINTER(_After), ctypes.POINTER(_Spec)
    sizes, pair = [count] * 2, [address] * 2
    arguments = {
        "unisd_statistics": [address, *sizes, count, address, after, ctypes.c_float, *pair],
        "unisd_pair": [*pair, *sizes, count, count, address, spec, ctypes.c_int32, *[address] * 6],
        "unisd_gradient": [*pair, *sizes, count, count, *[address] * 5, count],
    }
    for name, types in arguments.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None


@dataclass(frozen=True)
class CRows:
    """The compiled rows: float32 logits on the CPU, int64 ids."""

    library: ctypes.CDLL
    """`csrc/rows.c`, compiled and declared."""

    def statistics(self, logits: Tensor, ids: Tensor, *, after: AfterHead, inverse_temperature: float) -> RowStatistics:
        """Realised log-probability and entropy; `logits` are left capped."""
        logp, entropy = (logits.new_empty(len(logits)) for _ in range(2))

        def run(start: int, stop: int) -> None:
            self.library.unisd_statistics(
                _at(logits, start), stop - start, logits.shape[1], logits.stride(0), _at(ids, start),
                _after(after), inverse_temperature, _at(logp, start), _at(entropy, start),
            )  # fmt: skip

        _in_threads(run, *logits.shape)
        return RowStatistics(logp, entropy)

    def pair(
        self, student_logits: Tensor, teacher_logits: Tensor | None, ids: Tensor, spec: RowSpec, *, has_gradient: bool
    ) -> PairScores:
        """Everything about each row; the buffers keep dx/dz times s and U (see `csrc/rows.c`) for `gradient`."""
        num_rows, num_columns = student_logits.shape
        divergence, student_logp, teacher_logp, student_entropy, teacher_entropy = (
            student_logits.new_empty(num_rows) for _ in range(5)
        )
        context = student_logits.new_empty(num_rows, 2)
        c_spec = _spec(spec)

        def run(start: int, stop: int) -> None:
            self.library.unisd_pair(
                _at(student_logits, start), _at(teacher_logits, start), stop - start, num_columns,
                student_logits.stride(0), _stride(teacher_logits), _at(ids, start), c_spec, int(has_gradient),
                _at(divergence, start), _at(student_logp, start), _at(teacher_logp, start),
                _at(student_entropy, start), _at(teacher_entropy, start), _at(context, start),
            )  # fmt: skip

        _in_threads(run, num_rows, num_columns)
        if teacher_logits is None:
            return PairScores(None, student_logp, None, student_entropy, None, (context,))
        return PairScores(divergence, student_logp, teacher_logp, student_entropy, teacher_entropy, (context,))

    def gradient(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | None,
        ids: Tensor,
        spec: RowSpec,
        scores: PairScores,
        *,
        divergence_weight: Tensor | None,
        logp_weight: Tensor | None,
        out: Tensor,
    ) -> None:
        """One sweep over the two buffers."""
        (context,) = scores.context
        num_rows, num_columns = student_logits.shape
        # As C reads them: the gradient of a plain sum is one number, expanded.
        on_divergence, on_logp = (
            None if weight is None else weight.float().contiguous() for weight in (divergence_weight, logp_weight)
        )

        def run(start: int, stop: int) -> None:
            self.library.unisd_gradient(
                _at(student_logits, start), _at(teacher_logits, start), stop - start, num_columns,
                student_logits.stride(0), _stride(teacher_logits), _at(ids, start), _at(context, start),
                _at(on_divergence, start), _at(on_logp, start), _at(out, start), out.stride(0),
            )  # fmt: skip

        _in_threads(run, num_rows, num_columns)


def _after(after: AfterHead) -> _After:
    return _After(after.scale, after.softcap or 0.0)


def _spec(spec: RowSpec) -> _Spec:
    # In Python's double precision: 1 - beta and the logarithms are exact for beta next to 0 and 1.
    rest = 1.0 - spec.beta
    logarithms = (math.log(spec.beta), math.log1p(-spec.beta)) if spec.divergence == "jsd" else (0.0, 0.0)
    values, slopes = near_series(spec.divergence, spec.beta) if spec.divergence != "none" else ((), ())
    of_values, of_slopes = (ctypes.c_float * NUM_TERMS)(*values), (ctypes.c_float * NUM_TERMS)(*slopes)
    both = _after(spec.student), _after(spec.teacher)
    number = _DIVERGENCES[spec.divergence]
    return _Spec(
        number, spec.inverse_temperature, *both, spec.beta, rest, *logarithms, NEAR["float32"], of_values, of_slopes
    )


def _at(tensor: Tensor | None, row: int) -> int | None:
    return None if tensor is None else tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()


def _stride(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.stride(0)


def _in_threads(run: Callable[[int, int], None], num_rows: int, num_columns: int) -> None:
    starts = range(0, num_rows, _ROWS_AT_A_TIME)
    num_threads = min(torch.get_num_threads(), len(starts))
    if num_threads <= 1 or num_rows * num_columns < _FEWEST_LOGITS:
        run(0, num_rows)
        return
    # Threads of our own, started per call: no second OpenMP runtime, and nothing that a fork could break.
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(lambda start: run(start, min(start + _ROWS_AT_A_TIME, num_rows)), starts):
            pass
