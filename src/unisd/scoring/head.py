"""The path from the last hidden state to the logits, in one place for every family."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

logger = logging.getLogger(__name__)

FINAL_STATE = -1
"""Layer number of the final state, after the last norm."""

_TILE_ROWS = 8192
"""Vocabulary rows of a frozen low-precision head that are converted to float32 at a time."""


@dataclass(frozen=True)
class Head:
    """Logits of a hidden state: soft cap of scale * (W h + b). `weight=None`: the hidden states are logits already."""

    weight: Float[Tensor, "V D"] | None
    bias: Float[Tensor, " V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows V"]:
        """Logits in at least float32: rounding them to bfloat16 cost 9 % of the gradient (measured, real states)."""
        if self.weight is None:
            return _at_least_float32(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _project(_at_least_float32(hidden), self.weight)
            if self.bias is not None:
                logits = logits + self.bias
            if self.scale != 1.0:
                logits = logits * self.scale
            if self.softcap is not None:
                logits = torch.tanh(logits / self.softcap) * self.softcap
            return logits

    def detached(self) -> Head:
        """The same numbers as they are now, without gradient."""
        return Head(
            None if self.weight is None else self.weight.detach(),
            None if self.bias is None else self.bias.detach(),
            self.scale,
            self.softcap,
        )


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _project(hidden: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype == hidden.dtype:
        return hidden @ weight.T
    if weight.requires_grad:
        return hidden @ weight.to(hidden.dtype).T
    return torch.cat([hidden @ tile.to(hidden.dtype).T for tile in weight.split(_TILE_ROWS)], dim=-1)


def _plain(config: Any) -> tuple[float, float | None]:
    return 1.0, None


def _soft_capped(config: Any) -> tuple[float, float | None]:
    return 1.0, config.final_logit_softcapping


FAMILIES: dict[str, Callable[[Any], tuple[float, float | None]]] = {
    "cohere": lambda config: (config.logit_scale, None),
    "cohere2": lambda config: (config.logit_scale, None),
    "gemma": _plain,
    "gemma2": _soft_capped,
    "gemma3_text": _soft_capped,
    "gpt_neox": _plain,
    "granite": lambda config: (1.0 / config.logits_scaling, None),
    "llama": _plain,
    "mistral": _plain,
    "olmo2": _plain,
    "phi3": _plain,
    "qwen2": _plain,
    "qwen3": _plain,
    "smollm3": _plain,
}
"""Model type -> (scale, soft cap) after the output embedding; each is tested against the model's own logits."""


def causal_lm(model: nn.Module) -> Any:
    """The Hugging Face model inside an optional PEFT wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, whose outputs are the hidden states of layers 0, 1, ..."""
    decoder = causal_lm(model).get_decoder()
    blocks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    if len(blocks) != 1:
        raise ValueError(
            f"The blocks of {type(decoder).__name__} cannot be told from its other parts, so only layer -1 (the final "
            "state) is available. Set feature_match.layers: [-1]."
        )
    return blocks[0]


def head_of(model: nn.Module) -> Head | None:
    """The head as the model would use it now, adapters off or on, or `None` where it is not known to be linear.

    Known: the families of `FAMILIES`, unless the adapter rewrites the head itself (LoRA on `lm_head`).
    """
    inner = causal_lm(model)
    family = FAMILIES.get(inner.config.model_type)
    output = inner.get_output_embeddings()
    if isinstance(output, ModulesToSaveWrapper):
        output = (
            output.original_module if output.disable_adapters else output.modules_to_save[output.active_adapters[0]]
        )
    if family is None or isinstance(output, BaseTunerLayer) or not isinstance(output, nn.Linear):
        return None
    scale, softcap = family(inner.config)
    return Head(output.weight, output.bias, scale, softcap)


def warn_slow_head(model: nn.Module) -> None:
    """Say once that whole logits are used, why, and what would change it."""
    inner = causal_lm(model)
    logger.warning(
        "The path from hidden states to logits is not known for model type %r%s: whole (batch, tokens, vocabulary) "
        "logits are taken from the model, which is exact but needs more memory. Known: %s.",
        inner.config.model_type,
        " with an adapter on its head" if inner.config.model_type in FAMILIES else "",
        ", ".join(FAMILIES),
    )
