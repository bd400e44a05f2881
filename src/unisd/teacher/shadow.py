"""A copy of the trainable parameters that a model can compute with for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


class Shadow:
    """Tensors of the same names and shapes as a model's trainable parameters."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def of(cls, model: nn.Module, *, dtype: torch.dtype | None = None, device: str | None = None) -> Shadow:
        """A copy of the trainable parameters as they are now; in their own dtype and place unless told."""
        return cls(
            {
                name: parameter.detach().to(
                    dtype=dtype or parameter.dtype, device=device or parameter.device, copy=True
                )
                for name, parameter in trainable_parameters(model).items()
            }
        )

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model computes with the shadow in the parameters' own dtype. Not while a graph is alive."""
        parameters = trainable_parameters(model)
        kept = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.tensors[name].to(parameter.device, parameter.dtype)
            # Autocast keeps its low-precision copies by parameter, whatever the parameter holds by now.
            torch.clear_autocast_cache()
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = kept[name]
            torch.clear_autocast_cache()

    @torch.no_grad()
    def average_in(self, model: nn.Module, *, decay: float) -> None:
        """shadow <- decay * shadow + (1 - decay) * model, in the shadow's dtype."""
        for name, parameter in trainable_parameters(model).items():
            shadow = self.tensors[name]
            shadow.mul_(decay).add_(parameter.detach().to(shadow.dtype), alpha=1 - decay)

    @torch.no_grad()
    def distance_to(self, other: Mapping[str, Tensor]) -> float:
        """|shadow - other| / |other| over all tensors (L2); |shadow - other| where `other` is zero."""
        differences, norms = [], []
        for name, shadow in self.tensors.items():
            theirs = other[name].detach().to(shadow.device, torch.float32)
            differences.append((shadow.float() - theirs).square().sum())
            norms.append(theirs.square().sum())
        difference, norm = torch.stack([torch.stack(differences).sum(), torch.stack(norms).sum()]).tolist()
        return (difference / norm if norm else difference) ** 0.5

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved tensors; their names and shapes must be the shadow's."""
        if tensors.keys() != self.tensors.keys() or any(
            tensors[name].shape != mine.shape for name, mine in self.tensors.items()
        ):
            raise ValueError(
                "The saved teacher does not fit this model: its parameters have other names or shapes. "
                "Resume with the model and the peft section of the saved run."
            )
        for name, mine in self.tensors.items():
            mine.copy_(tensors[name])
