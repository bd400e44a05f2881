"""Which weights score the privileged view: the frozen base, the live student, or its moving average."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unisd.modes import evaluation_mode
from unisd.teacher.shadow import Shadow, trainable_parameters

logger = logging.getLogger(__name__)

TEACHER_WEIGHTS = "teacher.safetensors"
TEACHER_STATE = "teacher.json"


@dataclass
class Teacher:
    """What every teacher answers; subclass it for a teacher of your own."""

    kind: ClassVar[str]

    def start(self, model: nn.Module) -> None:
        """Look at the student once, before training, while its weights are the initial ones."""

    def weights(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, `model` computes with the teacher's weights. Run it under `no_grad`, with no graph alive."""
        raise NotImplementedError

    def update(self, model: nn.Module, step: int) -> None:
        """Called after optimizer step number `step` (from 1)."""

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Distances to log; relative L2 over the trainable parameters."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What a checkpoint must hold to go on as if uninterrupted: tensors and facts."""
        return {}, {}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        """Take up what `state` gave."""

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""
        tensors, facts = self.state()
        if tensors:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / TEACHER_WEIGHTS)
        (folder / TEACHER_STATE).write_text(json.dumps({"kind": self.kind, **facts}))

    def load(self, folder: Path) -> None:
        """Read it back; a checkpoint without the teacher is refused."""
        state_file = folder / TEACHER_STATE
        if not state_file.is_file():
            raise ValueError(
                f"{folder} holds no teacher ({TEACHER_STATE} is missing), so training cannot go on as it was. "
                "Resume from a checkpoint that unisd saved, or start a new run from its weights."
            )
        facts = json.loads(state_file.read_text())
        kind = facts.pop("kind")
        if kind != self.kind:
            raise ValueError(
                f"{folder} was saved with teacher kind {kind!r}, but this run asks for {self.kind!r}. "
                f"Set teacher.kind: {kind}, or start a new run."
            )
        weights_file = folder / TEACHER_WEIGHTS
        self.load_state(load_file(weights_file) if weights_file.is_file() else {}, facts)


@dataclass
class LiveTeacher(Teacher):
    """The student's own current weights, without gradient."""

    kind: ClassVar[str] = "live"

    def weights(self, model: nn.Module) -> AbstractContextManager[None]:
        """The model as it is."""
        return nullcontext()


@dataclass
class BaseTeacher(Teacher):
    """The student as it was before training.

    With PEFT the adapter is switched off, where that gives the initial model and always will (checked once on one
    batch); else, and with full fine-tuning, a copy of the trainable parameters is kept. Never a second copy of frozen
    weights.
    """

    kind: ClassVar[str] = "base"

    _start: Shadow | None = field(default=None, init=False, repr=False)

    def start(self, model: nn.Module) -> None:
        if isinstance(model, PeftModel):
            if _is_initial_without_adapter(model):
                return
            logger.warning(
                "The initial adapter changes the model, or parameters outside of it are trained, so the base teacher "
                "keeps a float32 copy of the trainable parameters (%d) instead of switching the adapter off.",
                sum(parameter.numel() for parameter in trainable_parameters(model).values()),
            )
            self._start = Shadow.of(model, dtype=torch.float32)
        else:
            self._start = Shadow.of(model)

    def weights(self, model: nn.Module) -> AbstractContextManager[None]:
        """The adapter off, or the initial parameters in place."""
        if self._start is not None:
            return self._start.swapped_into(model)
        assert isinstance(model, PeftModel), "start() was not called"
        return without_adapter(model)

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """A fingerprint of the initial weights; they come from the model the run is started with."""
        return {}, {} if self._start is None else {"initial_weights": _fingerprint(self._start.tensors)}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        """Refuse to go on with another base than the one the run began with."""
        _, mine = self.state()
        if mine != facts:
            raise ValueError(
                "The base teacher of the saved run has other initial weights than this run's model. Resume with the "
                "model (and adapter) the run was started with, not with one of its checkpoints, as model.name_or_path."
            )


@dataclass
class EMATeacher(Teacher):
    """Exponential moving average of the student's trainable parameters.

    shadow <- decay * shadow + (1 - decay) * student, every `every` optimizer steps, kept in float32 and saved with
    every checkpoint. With LoRA the factors A and B are averaged, which is not the average of their product B A.
    Source: UniSD, arXiv:2605.06597 (whose published code leaves LoRA parameters out).
    """

    kind: ClassVar[str] = "ema"

    decay: float = 0.98
    """Share of the old teacher that stays at each update; 1.0 never moves, 0.0 copies the student."""
    every: int = 10
    """Optimizer steps between updates."""

    _shadow: Shadow | None = field(default=None, init=False, repr=False)
    _start: Shadow | None = field(default=None, init=False, repr=False)
    _num_updates: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"teacher.decay must lie between 0 and 1, got {self.decay}.")
        if self.every < 1:
            raise ValueError(f"teacher.every must be at least 1, got {self.every}.")

    @property
    def shadow(self) -> Shadow:
        """The averaged parameters, float32."""
        assert self._shadow is not None, "start() was not called"
        return self._shadow

    def start(self, model: nn.Module) -> None:
        self._shadow = Shadow.of(model, dtype=torch.float32)
        # Only read for the logged distance, so it waits on the CPU.
        self._start = Shadow.of(model, device="cpu")

    def weights(self, model: nn.Module) -> AbstractContextManager[None]:
        """The averaged parameters in place."""
        return self.shadow.swapped_into(model)

    def update(self, model: nn.Module, step: int) -> None:
        """Average the student in, every `every` steps."""
        if step % self.every == 0:
            self.shadow.average_in(model, decay=self.decay)
            self._num_updates += 1

    def metrics(self, model: nn.Module) -> dict[str, float]:
        """Relative L2 distances to the student and to the initial model."""
        assert self._start is not None
        return {
            "teacher/num_updates": float(self._num_updates),
            "teacher/distance_to_student": self.shadow.distance_to(trainable_parameters(model)),
            "teacher/distance_to_base": self.shadow.distance_to(self._start.tensors),
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The averaged parameters."""
        return self.shadow.tensors, {"num_updates": str(self._num_updates)}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
        """Take up the saved average."""
        self.shadow.load(tensors)
        self._num_updates = int(facts["num_updates"])


@contextmanager
def scoring_with(teacher: Teacher, model: nn.Module) -> Iterator[None]:
    """Inside, `model` is the teacher: its weights, no dropout, no gradient."""
    with torch.no_grad(), evaluation_mode(model), teacher.weights(model):
        yield


@contextmanager
def without_adapter(model: PeftModel) -> Iterator[None]:
    """Inside, the model computes without its adapter; afterwards what was frozen still is."""
    # PEFT makes all of an adapter trainable when it switches it on again, also what a user froze.
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, requires_grad in trains:
            parameter.requires_grad_(requires_grad)


@torch.no_grad()
def _is_initial_without_adapter(model: PeftModel) -> bool:
    # Compared with every trainable parameter moved: a bias of the base may be trained with the adapter.
    moved = Shadow({name: parameter.detach() + 1 for name, parameter in trainable_parameters(model).items()})
    device = next(model.parameters()).device
    config: Any = model.get_base_model().config
    ids = torch.arange(min(16, config.vocab_size), device=device)[None]
    with evaluation_mode(model):
        initial = model(input_ids=ids).logits
        with moved.swapped_into(model), without_adapter(model):
            later = model(input_ids=ids).logits
    return torch.equal(initial, later)


def _fingerprint(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
