"""Which rows compute: Triton on GPUs, C on CPUs, PyTorch where neither can be had and in float64."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Literal

import torch

from unisd.kernels.build import BuildError, c_rows
from unisd.kernels.rows import Rows
from unisd.kernels.rows_torch import TorchRows

logger = logging.getLogger(__name__)

Impl = Literal["auto", "c", "torch", "triton"]


def rows_for(device: torch.device, dtype: torch.dtype, impl: Impl = "auto") -> Rows:
    """The rows for logits of that type on that device; `auto` takes the fastest that is there."""
    if impl == "c" and (device.type != "cpu" or dtype != torch.float32):
        raise ValueError(f"impl: c computes float32 on the CPU, got {dtype} on {device.type}. Use impl: auto.")
    if impl == "triton" and dtype != torch.float32:
        raise ValueError(f"impl: triton computes float32, got {dtype}. Use impl: auto.")
    if impl == "auto":
        impl = _fastest(device.type, dtype)
    if impl == "c":
        try:
            return c_rows()
        except BuildError as error:
            raise ValueError(f"impl: c is not available. {error} Install a C compiler, or use impl: auto.") from error
    return _triton_rows() if impl == "triton" else TorchRows()


def _fastest(device: str, dtype: torch.dtype) -> Impl:
    if dtype != torch.float32:
        return "torch"
    if device == "cpu":
        return "c" if _has_c() else "torch"
    return "triton" if device in ("cuda", "xpu") and _has_triton() else "torch"


@lru_cache(maxsize=1)
def _has_c() -> bool:
    try:
        c_rows()
    except BuildError as error:
        logger.warning("The loss runs in plain PyTorch, which is slower. %s", error)
        return False
    return True


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    try:
        _triton_rows()
    except ImportError as error:
        logger.warning("The loss runs in plain PyTorch, which is slower: %s. Install unisd[triton].", error)
        return False
    return True


def _triton_rows() -> Rows:
    from unisd.kernels.rows_triton import TritonRows

    return TritonRows()
