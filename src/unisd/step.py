"""One micro-batch, from views and completions to the loss: the heart of the library.

teacher scores --+
                 +-> TokenScores -> divergence -> transforms --+
student scores --+              \\-> added losses -------------+-> coefficients, weights -> reduction -> loss
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from unisd.diagnostics import divergence_profile
from unisd.metrics import Fold
from unisd.objective import COMPONENTS
from unisd.objective.clip import check_clippable, default_components
from unisd.objective.divergence import Divergence
from unisd.objective.reduce import reduce_tokens
from unisd.options import Gate
from unisd.rollout.gate import num_kept
from unisd.scoring.foresight import Predict, foreseen
from unisd.scoring.forward import PassOutput, run_pass
from unisd.scoring.fused import token_scores
from unisd.scoring.plan import Plan
from unisd.scoring.views import realised_logp
from unisd.teacher.teacher import Teacher, scoring_with
from unisd.types import Loss, Need, RolloutBatch, Signal, TokenLoss, TokenScores, Transform

_SMALLEST_MEAN_WEIGHT = 1e-12


@runtime_checkable
class LogMetric(Protocol):
    """`log(name, values, mask)`: the mean, or another fold, of `values` over `mask` since the last log."""

    def __call__(self, name: str, values: Tensor, mask: Tensor | None, *, fold: Fold = "mean") -> None: ...


@dataclass(frozen=True)
class TeacherScores:
    """What the teacher says about a micro-batch."""

    privileged: PassOutput | None = None
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)
    """Log-probabilities of the auxiliary and negative views."""
    scored_rows: Mapping[Signal, Tensor] = field(default_factory=dict)
    """Which sequences have them, (B,)."""


@dataclass(frozen=True)
class Step:
    """What stays the same from one micro-batch to the next."""

    plan: Plan
    teacher: Teacher
    objective: Divergence
    components: Mapping[str, Loss | Transform]
    """By the name they are logged under, in the order they apply."""
    whole_logits: bool = False
    """Take logits from the model as they are, where its head is not known."""
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """For `auxiliary` and `negative`; those on the student's entropy act here, the others acted in the rollout."""
    gather: Callable[[Tensor], Tensor] | None = None
    """Joins rows of all processes, for batch statistics; `None` on one process."""
    is_loss_known: bool = True
    """The loss is `reduce(token_losses(scores))`: then a token's weight in it may be known with its scores."""

    def teacher_scores(self, model: nn.Module, batch: RolloutBatch) -> TeacherScores:
        """The teacher's passes that do not wait for the student."""
        with scoring_with(self.teacher, model):
            privileged = None
            if self.plan.has_teacher:
                output = run_pass(
                    model,
                    batch.views["privileged"],
                    batch,
                    whole_logits=self.whole_logits,
                    layers=self.plan.layers,
                )
                privileged = replace(output, head=output.head.detached())
            signals, scored = self.extra_views(model, batch, late=False)
        return TeacherScores(privileged, signals, scored)

    def student_scores(
        self, model: nn.Module, batch: RolloutBatch, teacher: TeacherScores, *, call: nn.Module | None = None
    ) -> TokenScores:
        """The student's pass, with gradient, and what it says about each token next to the teacher's."""
        student = run_pass(
            model,
            batch.views["prompt"],
            batch,
            whole_logits=self.whole_logits,
            layers=self.plan.layers,
            call=call,
        )
        signals = token_scores(
            student,
            teacher.privileged,
            ids=batch.completion_ids,
            mask=batch.mask,
            objective=self.objective,
            signals=self.plan.signals,
            predict=self._foreseen(batch, teacher) if torch.is_grad_enabled() else None,
        )
        if batch.sampler_logp is not None:
            signals[Signal.SAMPLER_LOGP] = batch.sampler_logp
        late, late_rows = self._late_views(model, batch, signals)
        return TokenScores(
            mask=batch.mask,
            completion_ids=batch.completion_ids,
            signals={**signals, **teacher.signals, **late},
            student_hidden=student.hidden,
            teacher_hidden=teacher.privileged.hidden if teacher.privileged else None,
            scored_rows={**teacher.scored_rows, **late_rows},
            counts=batch.counts,
            gather=self.gather,
        )

    def _foreseen(self, batch: RolloutBatch, teacher: TeacherScores) -> Predict | None:
        """How much each token will count in the loss, where that can be told from the token alone."""
        read = Signal.DIVERGENCE | Signal.STUDENT_LOGP
        readers = {
            name: component
            for name, component in self.components.items()
            if isinstance(component, Transform) or component.needs.signals & read
        }
        is_local = all(one.is_token_local and not one.needs.hidden_layers for one in readers.values())
        is_late = any(gate.signal == "student_entropy" for gate in self.gates.values())
        # The published code divides a sequence by its own weights.
        if not self.is_loss_known or not is_local or is_late or self.objective.reference:
            return None

        def loss_of(scores: TokenScores) -> Tensor:
            terms = replace(self, components=readers).token_losses(scores)
            return torch.stack([loss.values * loss.weights for loss in terms.values()]).sum(0)

        signals = dict(teacher.signals)
        if batch.sampler_logp is not None:
            signals[Signal.SAMPLER_LOGP] = batch.sampler_logp
        divisors = batch.mask.sum(-1).clamp(min=1)
        if self.objective.reduction != "sequence_mean":
            divisors = torch.ones_like(divisors)
        return foreseen(loss_of, batch=batch, signals=signals, scored_rows=teacher.scored_rows, divisors=divisors)

    def _late_views(
        self, model: nn.Module, batch: RolloutBatch, signals: Mapping[Signal, Tensor]
    ) -> tuple[dict[Signal, Tensor], dict[Signal, Tensor]]:
        if not any(gate.signal == "student_entropy" for gate in self.gates.values()):
            return {}, {}
        uncertainty = signals[Signal.STUDENT_ENTROPY].sum(-1) / batch.mask.sum(-1).clamp(min=1)
        with scoring_with(self.teacher, model):
            return self.extra_views(model, batch, late=True, uncertainty=uncertainty)

    def extra_views(
        self, model: nn.Module, batch: RolloutBatch, *, late: bool, uncertainty: Tensor | None = None
    ) -> tuple[dict[Signal, Tensor], dict[Signal, Tensor]]:
        """Log-probabilities under the auxiliary and negative views, and the rows they cover; inside the teacher.

        `late`: those gated on the student's entropy, of which `uncertainty` lets the largest through; else the others.
        """
        signals: dict[Signal, Tensor] = {}
        scored: dict[Signal, Tensor] = {}
        for start, signal, temperature in (
            ("auxiliary", Signal.AUXILIARY_LOGP, self._auxiliary_temperature),
            ("negative", Signal.NEGATIVE_LOGP, self.objective.temperature),
        ):
            gate = self.gates.get(start)
            is_late = gate is not None and gate.signal == "student_entropy"
            if signal not in self.plan.need.signals or is_late != late:
                continue
            if signal in batch.scored_ahead:
                signals[signal], scored[signal] = batch.scored_ahead[signal]
                continue
            views = [batch.views[name] for name in sorted(batch.views) if name.startswith(start)]
            if gate is not None and uncertainty is not None:
                views = [view.only(_most_uncertain(uncertainty, gate.fraction)) for view in views]
            logp, scored[signal] = realised_logp(
                model, views, batch, whole_logits=self.whole_logits, temperature=temperature
            )
            signals[signal] = logp if start == "auxiliary" else logp.sum(0)
        return signals, scored

    @property
    def _auxiliary_temperature(self) -> float:
        # 1 as in the published code, as long as the views are compared with nothing but each other.
        both = Need.AUXILIARY_LOGP | Need.TEACHER_LOGP
        is_compared = any(both in component.needs for component in self.components.values())
        return self.objective.temperature if is_compared else 1.0

    def token_losses(self, scores: TokenScores, log: LogMetric | None = None) -> dict[str, TokenLoss]:
        """The main term after its transforms, and every added term times its coefficient, by name."""
        ones = scores.mask.to(scores.dtype)
        has_main = self.objective.divergence != "none"
        main = self.transformed(TokenLoss(scores.divergence if has_main else torch.zeros_like(ones), ones), scores, log)
        if scores.counts.mean_weight is not None:
            # Where every weight is 0 the terms are too.
            main = main.reweighted(ones / scores.counts.mean_weight.to(ones.dtype).clamp(min=_SMALLEST_MEAN_WEIGHT))
        losses = {"divergence": main} if has_main else {}
        for name, component in self.components.items():
            if isinstance(component, Loss):
                readable = scores.read_by(name, component.needs)
                values = component(readable)
                if log is not None:
                    for key, extra in component.metrics(values, readable).items():
                        log(f"{name}/{key}", extra, scores.mask)
                losses[name] = TokenLoss(values * component.coefficient, main.weights if component.weighted else ones)
        return losses

    def transformed(self, main: TokenLoss, scores: TokenScores, log: LogMetric | None = None) -> TokenLoss:
        """The main term after the transforms, in their order."""
        for name, component in self.components.items():
            if isinstance(component, Transform):
                readable = scores.read_by(name, component.needs)
                before, main = main, component(main, readable)
                if log is None:
                    continue
                _log_change(name, before, main, scores, log)
                for key, values in component.metrics(before, main, readable).items():
                    log(f"{name}/{key}", values, scores.mask)
        return main

    def reduce(self, token_losses: Mapping[str, TokenLoss], scores: TokenScores) -> Tensor:
        """This micro-batch's share of the step's loss."""
        terms = [
            reduce_tokens(loss, scores.mask, objective=self.objective, counts=scores.counts)
            for loss in token_losses.values()
        ]
        return torch.stack(terms).sum()


def _log_change(name: str, before: TokenLoss, after: TokenLoss, scores: TokenScores, log: LogMetric) -> None:
    """Whether a transform does anything, and where its weights lie."""
    has_changed = (after.values != before.values) | (after.weights != before.weights)
    log(f"{name}/changed", has_changed.to(scores.dtype), scores.mask)
    if after.weights is not before.weights:
        for fold in ("mean", "min", "max"):
            log(f"{name}/weight_{fold}", after.weights, scores.mask, fold=fold)


def log_scores(scores: TokenScores, token_losses: Mapping[str, TokenLoss], log: LogMetric) -> None:
    """Every term, and every signal that was computed anyway."""
    for name, loss in token_losses.items():
        log(f"loss/{name}", loss.values, scores.mask)
    for name, need, read in (
        ("divergence", Need.DIVERGENCE, lambda: scores.divergence),
        ("entropy", Need.STUDENT_ENTROPY, lambda: scores.student_entropy),
        ("teacher_entropy", Need.TEACHER_ENTROPY, lambda: scores.teacher_entropy),
        ("sampler_logp", Need.SAMPLER_LOGP, lambda: scores.sampler_logp),
    ):
        if scores.has(need):
            log(name, read(), scores.mask)
    if scores.has(Need.DIVERGENCE):
        for key, value in divergence_profile(scores.divergence, scores.mask).items():
            log(f"divergence/{key}", value, None)
    everyone = torch.ones(len(scores.mask), dtype=torch.bool, device=scores.mask.device)
    if scores.has(Need.AUXILIARY_LOGP):
        log("auxiliary/passes_saved", (~scores.auxiliary_scored).float(), everyone)
    if scores.has(Need.NEGATIVE_LOGP):
        log("negative/passes_saved", (~scores.negative_scored).float(), everyone)


def _most_uncertain(uncertainty: Tensor, fraction: float) -> Tensor:
    """True for the ceil(fraction * B) sequences with the largest value."""
    order = uncertainty.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(uncertainty, dtype=torch.bool)
    chosen[order[: num_kept(len(order), fraction)]] = True
    return chosen


def overrides(cls: type, base: type, *names: str) -> bool:
    """Whether `cls` has its own version of one of these methods of `base`."""
    return any(getattr(cls, name) is not getattr(base, name) for name in names)


def named_components(
    components: Sequence[Loss | Transform] | None, objective: Divergence
) -> dict[str, Loss | Transform]:
    """By registry name, or the class name in snake case; a second one of a name gets `_2`. `None` takes the default."""
    registered = {cls: name for name, cls in COMPONENTS.items()}
    # The main term has a name as well.
    given = Counter(["divergence"])
    named: dict[str, Loss | Transform] = {}
    for component in default_components(objective) if components is None else components:
        cls = type(component)
        name = registered.get(cls) or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        given[name] += 1
        named[name if given[name] == 1 else f"{name}_{given[name]}"] = component
    check_clippable(objective, named)
    return named
