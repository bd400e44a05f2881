"""What happens between the passes of a step: the teacher's update, non-finite gradients, and the clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unisd.diagnostics import CHECK_STEP, dead_knobs, signals
from unisd.metrics import Metrics
from unisd.objective.clip import DEFAULT_CLIP
from unisd.teacher.teacher import Teacher

logger = logging.getLogger(__name__)


class StepClock:
    """Seconds the host spends in each part of an optimizer step; on a GPU kernels may still run when it stops."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._part: str | None = None
        self._since = 0.0
        self._seconds: dict[str, float] = {}

    def start(self, part: str) -> None:
        """From now on time counts for `part`: rollout, teacher, student (with its backward pass) or update."""
        self.stop()
        self._part, self._since = part, time.perf_counter()

    def stop(self) -> None:
        """Time counts for nothing until the next start."""
        if self._part is not None:
            spent = time.perf_counter() - self._since
            self._seconds[self._part] = self._seconds.get(self._part, 0.0) + spent
        self._part = None

    def end_step(self) -> None:
        """Log `time/<part>` of the step."""
        self.stop()
        for part, seconds in self._seconds.items():
            self._metrics.add(f"time/{part}", seconds)
        self._seconds = {}


class StepCallback(TrainerCallback):
    """Moves the teacher after every optimizer step, and leaves steps with non-finite gradients out."""

    def __init__(self, teacher: Teacher, metrics: Metrics, clock: StepClock) -> None:
        self._teacher = teacher
        self._metrics = metrics
        self._clock = clock
        self._has_warned = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Drop the gradients of a step that has NaN or infinite ones: one such step ruins a run."""
        self._clock.start("update")
        # With fp16 the gradient scaler looks for them itself, and expects some.
        if args.fp16:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        is_finite = bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))) if gradients else True
        self._metrics.add("nonfinite_steps", float(not is_finite), fold="sum")
        if not is_finite:
            model.zero_grad(set_to_none=True)
            if not self._has_warned:
                logger.warning(
                    "Step %d has non-finite gradients and is left out; nonfinite_steps counts them.",
                    state.global_step + 1,
                )
                self._has_warned = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """`state.global_step` already counts the step that just ended."""
        self._teacher.update(model, state.global_step)
        self._clock.end_step()
        # A log there, whatever `logging_steps` says, so that dead knobs come to light early, and no step is left out.
        control.should_log |= state.global_step in (CHECK_STEP, state.max_steps)


class DiagnosticsCallback(TrainerCallback):
    """Warns of dead knobs after step 10, and of those and of collapse and leakage when training ends."""

    def __init__(self, components: Mapping[str, object]) -> None:
        self._not_asked_for = [name for name, component in components.items() if component is DEFAULT_CLIP]
        self.inert: list[str] = []
        """What was configured and did nothing, as found at the end."""
        self.warnings: list[str] = []
        """Everything that was found at the end."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After the training log of step 10, unless it is the last."""
        is_training = "loss" in state.log_history[-1] and state.global_step < state.max_steps
        if state.global_step == CHECK_STEP and is_training and state.is_world_process_zero:
            for sentence in dead_knobs(state.log_history, not_asked_for=self._not_asked_for):
                logger.warning("after %d steps: %s", CHECK_STEP, sentence)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The final summary."""
        self.inert = dead_knobs(state.log_history, not_asked_for=self._not_asked_for)
        self.warnings = [*self.inert, *signals(state.log_history)]
        if state.is_world_process_zero:
            for sentence in self.warnings:
                logger.warning("at the end: %s", sentence)
