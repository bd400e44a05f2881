"""The path from the last hidden state to the logits, in one place for every family."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

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

    @property
    def is_trainable(self) -> bool:
        """Whether the head itself gets a gradient."""
        return any(part is not None and part.requires_grad for part in (self.weight, self.bias))

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


def check_layers(model: nn.Module, layers: Collection[int]) -> None:
    """Refuse hidden states of blocks that the model does not have."""
    if not set(layers) - {FINAL_STATE}:
        return
    num_blocks = len(blocks_of(model))
    missing = [layer for layer in sorted(layers) if not -num_blocks <= layer < num_blocks]
    if missing:
        raise ValueError(
            f"feature_match.layers: there is no layer {missing[0]}, the model has {num_blocks} blocks. Allowed: "
            f"0 to {num_blocks - 1}, from the end -{num_blocks} to -2, and -1 for the final state after the last norm."
        )


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


def needs_whole_logits(model: nn.Module, impl: Literal["auto", "fused", "full"]) -> bool:
    """Whether logits are taken from the model as they are: asked for, or, with a warning, for an unknown head."""
    if impl == "full" or head_of(model) is not None:
        return impl == "full"
    inner = causal_lm(model)
    model_type = inner.config.model_type
    what = f"{model_type!r} with an adapter on its head" if model_type in FAMILIES else repr(model_type)
    if impl == "fused":
        raise ValueError(
            f"objective.impl: fused, but the path from hidden states to logits is not known for model type {what}. "
            f"Set impl: auto, which takes whole logits there. Known: {', '.join(FAMILIES)}."
        )
    logger.warning(
        "The path from hidden states to logits is not known for model type %s: whole (batch, tokens, vocabulary) "
        "logits are taken from the model, which is exact but needs more memory. Known: %s.",
        what,
        ", ".join(FAMILIES),
    )
    return True
