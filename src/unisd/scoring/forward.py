"""One pass: a view and its completions through a model, down to the states that predict the completion tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unisd.scoring.head import FINAL_STATE, Head, blocks_of, causal_lm, head_of
from unisd.types import RolloutBatch, View

Result = TypeVar("Result")


@dataclass(frozen=True)
class PassOutput:
    """What one pass leaves behind for scoring."""

    states: Float[Tensor, "B T S"]
    """Inputs of the head at the positions that predict the completion; whole logits where `head.weight` is `None`."""
    head: Head
    hidden: Mapping[int, Float[Tensor, "B T D"]] = field(default_factory=dict)
    """Further hidden states by layer, at the same positions; 0 outside the mask."""


def inside_forward(
    model: nn.Module, inputs: dict[str, Any], fn: Callable[[Tensor], Result], *, call: nn.Module | None = None
) -> Result:
    """`fn(states)` on what reaches the output embedding, run within the forward of `call`.

    `call` is the wrapped model (DDP, sharding): its forward must run, or gradients are not reduced over processes, an
    error as large as the gradient when measured. The output embedding gets an empty slice, so no logits are made.
    """
    results: list[Result] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        results.append(fn(args[0]))
        return (args[0][:, :0], *args[1:])

    handle = causal_lm(model).get_output_embeddings().register_forward_pre_hook(hook)
    try:
        _called(model, call)(**inputs)
    finally:
        handle.remove()
    return results[0]


def run_pass(
    model: nn.Module,
    view: View,
    batch: RolloutBatch,
    *,
    whole_logits: bool,
    layers: Collection[int] = (),
    call: nn.Module | None = None,
) -> PassOutput:
    """Run `concat(view, completion)` through `model`; states at positions P-1 ... P+T-2, which predict the T tokens.

    `whole_logits` takes them from the model as they are: exact for any architecture, (B, T, V) in memory.
    """
    # One state per completion token, and one more that predicts beyond it.
    kept = slice(-batch.completion_ids.shape[1] - 1, -1)
    inputs = _inputs(view, batch)
    with _watched(model, layers) as found:
        if whole_logits:
            states, head = _called(model, call)(**inputs).logits, Head(None)
        else:
            inputs["logits_to_keep"] = batch.completion_ids.shape[1] + 1
            states, head = inside_forward(model, inputs, lambda states: states, call=call), head_of(model)
    assert head is not None, "the plan asks for whole logits where the head is not known"
    padding = ~batch.mask[view.rows, :, None]
    hidden = {layer: output[:, kept].masked_fill(padding, 0.0) for layer, output in found.items()}
    # A copy, because a slice would keep the states of the whole prompt alive.
    return PassOutput(states[:, kept].clone(), head, hidden)


@contextmanager
def _watched(model: nn.Module, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
    """Hidden states of the asked layers, filled in by a forward pass inside; no other layer's outlive it.

    Kept as they are: a hook may run inside a checkpointed block, whose recomputation would miss further operations.
    """
    hidden: dict[int, Tensor] = {}
    handles = []

    def keep(layer: int, output: Any) -> None:
        hidden[layer] = output[0] if isinstance(output, tuple) else output

    for layer in layers:
        if layer == FINAL_STATE:
            output = causal_lm(model).get_output_embeddings()
            handles.append(output.register_forward_pre_hook(lambda _, args: keep(FINAL_STATE, args)))
        else:
            block = blocks_of(model)[layer]
            handles.append(block.register_forward_hook(lambda _, __, output, layer=layer: keep(layer, output)))
    try:
        yield hidden
    finally:
        for handle in handles:
            handle.remove()


def _called(model: nn.Module, call: nn.Module | None) -> nn.Module:
    # A compiled module takes its truth from `len`, which most models do not have.
    return model if call is None else call


def _inputs(view: View, batch: RolloutBatch) -> dict[str, Any]:
    mask = torch.cat([view.mask, batch.completion_mask[view.rows]], dim=1)
    return {
        "input_ids": torch.cat([view.ids, batch.completion_ids[view.rows]], dim=1),
        "attention_mask": mask.long(),
        # Left padding would otherwise shift the positions of models that count them.
        "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0),
        "use_cache": False,
    }
