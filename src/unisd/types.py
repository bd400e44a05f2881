"""The shared vocabulary of a step: examples, rollouts, token scores, token losses, and what a component needs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Message: TypeAlias = dict[str, str]
"""One chat turn: `{"role": ..., "content": ...}`."""
Prompt: TypeAlias = str | list[Message]
"""Plain text (tokenized as it is) or a conversation (rendered with the chat template)."""


@dataclass(frozen=True)
class Example:
    """One row of a data set, as the student and the teacher need it."""

    prompt: Prompt
    """What the student sees."""
    privileged_context: Prompt | None = None
    """What only the teacher sees: an answer (text), or whole chat turns that demonstrate one."""
    teacher_prompt: Prompt | None = None
    """The request as the teacher sees it, without the demonstration; `None` means the student's prompt."""
    completion: str | None = None
    """Reference completion, for `rollout.backend: dataset` and `on_policy_fraction`."""
    auxiliary_contexts: tuple[Prompt, ...] = ()
    """Further demonstrations, one teacher view each."""
    negative_context: Prompt | None = None
    """A wrong demonstration."""
    answer: Any = None
    """What the task's grader compares a completion with."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the row, for templates and graders."""


@dataclass(frozen=True)
class Completion:
    """Token ids of one completion, the end-of-sequence token included when it was reached."""

    ids: list[int]
    sampler_logp: list[float] | None
    """Log-probability of each token under the distribution it was drawn from, nats; `None` when nobody sampled it."""
    is_finished: bool
    """It ends in an end-of-sequence token rather than at the length limit."""
    is_on_policy: bool = True
    """The student wrote it in this optimizer step."""


@dataclass(frozen=True)
class View:
    """The prompts of a micro-batch as one role sees them, left-padded; a view may cover some of its B rows only."""

    ids: Int[Tensor, "R P"]
    mask: Bool[Tensor, "R P"]
    rows: Int[Tensor, " R"]
    """Which rows of the micro-batch, ascending."""

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        return View(self.ids.to(device), self.mask.to(device), self.rows.to(device))

    def only(self, rows: Bool[Tensor, " B"]) -> View:
        """The part of the view that covers the rows where `rows` is true."""
        keep = rows[self.rows]
        return View(self.ids[keep], self.mask[keep], self.rows[keep])


@dataclass(frozen=True)
class StepCounts:
    """What one optimizer step holds over all its micro-batches and all processes, counted before anything is scored."""

    num_tokens: int
    num_sequences: int
    """Sequences with at least one valid token."""
    mean_weight: Float[Tensor, ""] | None = None
    """Of the main term, which `normalize_weights` divides by; `None` without it."""


@dataclass(frozen=True)
class RolloutBatch:
    """One micro-batch: the completions to score and every view they are scored under.

    It has a length and answers `in`, because the Hugging Face Trainer asks both of its inputs.
    """

    views: Mapping[str, View]
    """`prompt` for the student; `privileged`, `auxiliary_0` ... and `negative` for the teacher."""
    completion_ids: Int[Tensor, "B T"]
    """Right-padded."""
    completion_mask: Bool[Tensor, "B T"]
    """True up to and including the first end-of-sequence token."""
    mask: Bool[Tensor, "B T"]
    """`completion_mask` less the tokens that the loss skips."""
    sampler_logp: Float[Tensor, "B T"] | None
    counts: StepCounts
    examples: list[Example]
    completions: list[Completion]
    privileged_overlap: Float[Tensor, " B"] | None = None
    """Share of a completion's n-grams that only the privileged view has; `None` without such views."""
    seconds: float = 0.0
    """Time its share of the rollout took."""
    scored_ahead: Mapping[Signal, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Log-probabilities of extra views that were scored before the step, and which rows have them, (B,)."""

    def __len__(self) -> int:
        return len(self.completion_ids)

    def __contains__(self, key: object) -> bool:
        return False

    def to(self, device: torch.device | str) -> RolloutBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            views={name: view.to(device) for name, view in self.views.items()},
            completion_ids=self.completion_ids.to(device),
            completion_mask=self.completion_mask.to(device),
            mask=self.mask.to(device),
            sampler_logp=None if self.sampler_logp is None else self.sampler_logp.to(device),
            scored_ahead={
                signal: (logp.to(device), rows.to(device)) for signal, (logp, rows) in self.scored_ahead.items()
            },
        )


class Signal(enum.Flag):
    """The per-token quantities a component may read; each costs part of a forward pass."""

    STUDENT_LOGP = enum.auto()
    TEACHER_LOGP = enum.auto()
    DIVERGENCE = enum.auto()
    STUDENT_ENTROPY = enum.auto()
    TEACHER_ENTROPY = enum.auto()
    AUXILIARY_LOGP = enum.auto()
    NEGATIVE_LOGP = enum.auto()
    SAMPLER_LOGP = enum.auto()

    def members(self) -> list[Signal]:
        """The single signals in it; before Python 3.11 a flag cannot be iterated."""
        return [one for one in type(self) if one in self]


@dataclass(frozen=True)
class Need:
    """What a component reads from `TokenScores`; `a | b` unites. The union over all components is the plan of passes.

    `Need()` needs nothing; `Need.hidden(-1, 5)` asks for hidden states of those layers, from both student and teacher.
    """

    signals: Signal = Signal(0)
    hidden_layers: frozenset[int] = frozenset()

    STUDENT_LOGP: ClassVar[Need]
    TEACHER_LOGP: ClassVar[Need]
    DIVERGENCE: ClassVar[Need]
    STUDENT_ENTROPY: ClassVar[Need]
    TEACHER_ENTROPY: ClassVar[Need]
    AUXILIARY_LOGP: ClassVar[Need]
    NEGATIVE_LOGP: ClassVar[Need]
    SAMPLER_LOGP: ClassVar[Need]

    @classmethod
    def hidden(cls, *layers: int) -> Need:
        """Hidden states at the positions that predict the completion; -1 is the final state after the last norm."""
        return cls(hidden_layers=frozenset(layers))

    def __or__(self, other: Need) -> Need:
        return Need(self.signals | other.signals, self.hidden_layers | other.hidden_layers)

    def __contains__(self, other: Need) -> bool:
        return other.signals in self.signals and other.hidden_layers <= self.hidden_layers

    def __bool__(self) -> bool:
        return bool(self.signals) or bool(self.hidden_layers)


for _signal in Signal:
    setattr(Need, str(_signal.name), Need(_signal))


class UndeclaredNeed(ValueError):
    """A component read a signal that its `needs` do not name."""


class TokenScores:
    """What the passes of one micro-batch say about each completion token; all (B, T), nats, unless said.

    Outside the mask the passes leave zeros. Reading a signal outside `needs` raises `UndeclaredNeed`, so that a plan
    never computes what nobody declared.
    """

    def __init__(
        self,
        *,
        mask: Bool[Tensor, "B T"],
        completion_ids: Int[Tensor, "B T"],
        signals: Mapping[Signal, Tensor],
        student_hidden: Mapping[int, Tensor] | None = None,
        teacher_hidden: Mapping[int, Tensor] | None = None,
        scored_rows: Mapping[Signal, Tensor] | None = None,
        counts: StepCounts | None = None,
        gather: Callable[[Tensor], Tensor] | None = None,
        needs: Need | None = None,
        reader: str = "this component",
    ) -> None:
        self.mask = mask
        """Which tokens count."""
        self.completion_ids = completion_ids
        self._signals = signals
        self._student_hidden = student_hidden or {}
        self._teacher_hidden = teacher_hidden or {}
        self._scored_rows = scored_rows or {}
        self.counts = counts or StepCounts(int(mask.sum()), int(mask.any(-1).sum()))
        """What the whole optimizer step holds; this micro-batch alone where nothing else is said."""
        self._gather = gather
        self._needs = needs
        self._reader = reader

    def read_by(self, reader: str, needs: Need) -> TokenScores:
        """The same scores, restricted to what `reader` declared."""
        return TokenScores(
            mask=self.mask,
            completion_ids=self.completion_ids,
            signals=self._signals,
            student_hidden=self._student_hidden,
            teacher_hidden=self._teacher_hidden,
            scored_rows=self._scored_rows,
            counts=self.counts,
            gather=self._gather,
            needs=needs,
            reader=reader,
        )

    def valid_everywhere(
        self, values: Float[Tensor, "B T"], rows: Bool[Tensor, " B"] | None = None
    ) -> Float[Tensor, " N"]:
        """The values of this micro-batch's valid tokens on all processes, in one row, without gradient.

        `rows` leaves out the sequences where it is false.
        """
        valid = values.detach()[self.mask if rows is None else self.mask & rows[:, None]]
        return valid if self._gather is None else self._gather(valid)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the scores: float32, or float64 where the model computes in it."""
        return next((tensor.dtype for tensor in self._signals.values()), torch.float32)

    def has(self, need: Need) -> bool:
        """Whether the passes yielded it (for logging; a component declares instead of asking)."""
        has_signals = all(signal in self._signals for signal in need.signals.members())
        return has_signals and need.hidden_layers <= set(self._student_hidden)

    def _read(self, signal: Signal) -> Tensor:
        name = str(signal.name)
        is_declared = self._needs is not None and signal in self._needs.signals
        if is_declared and signal not in self._signals:
            raise ValueError(
                f"{self._reader} reads {name.lower()}, but nothing in this run yields it. sampler_logp takes "
                "completions that are all sampled (backend: hf, on_policy_fraction: 1.0); others a view of that name."
            )
        if signal not in self._signals or not (is_declared or self._needs is None):
            raise UndeclaredNeed(
                f"{self._reader} reads {name.lower()} but does not declare it. Add Need.{name} to its `needs`."
            )
        return self._signals[signal]

    @property
    def student_logp(self) -> Float[Tensor, "B T"]:
        """Log-probability of the realised token under the student; gradient."""
        return self._read(Signal.STUDENT_LOGP)

    @property
    def teacher_logp(self) -> Float[Tensor, "B T"]:
        """Log-probability of the realised token under the teacher."""
        return self._read(Signal.TEACHER_LOGP)

    @property
    def divergence(self) -> Float[Tensor, "B T"]:
        """Main divergence between teacher and student; gradient."""
        return self._read(Signal.DIVERGENCE)

    @property
    def student_entropy(self) -> Float[Tensor, "B T"]:
        """Entropy of the student, without gradient."""
        return self._read(Signal.STUDENT_ENTROPY)

    @property
    def teacher_entropy(self) -> Float[Tensor, "B T"]:
        """Entropy of the teacher."""
        return self._read(Signal.TEACHER_ENTROPY)

    @property
    def auxiliary_logp(self) -> Float[Tensor, "K B T"]:
        """Log-probability of the realised token under each auxiliary view of the teacher, at temperature 1."""
        return self._read(Signal.AUXILIARY_LOGP)

    @property
    def negative_logp(self) -> Float[Tensor, "B T"]:
        """Log-probability of the realised token under the negative view of the teacher."""
        return self._read(Signal.NEGATIVE_LOGP)

    @property
    def auxiliary_scored(self) -> Bool[Tensor, " B"]:
        """Sequences whose auxiliary views were scored; where a gate left one out, its log-probabilities are 0."""
        return self._rows_with(Signal.AUXILIARY_LOGP)

    @property
    def negative_scored(self) -> Bool[Tensor, " B"]:
        """Sequences that have a negative view and whose gate let it through."""
        return self._rows_with(Signal.NEGATIVE_LOGP)

    def _rows_with(self, signal: Signal) -> Tensor:
        everywhere = self._read(signal).new_ones(len(self.mask), dtype=torch.bool)
        return self._scored_rows.get(signal, everywhere)

    @property
    def sampler_logp(self) -> Float[Tensor, "B T"]:
        """Log-probability of the realised token under the distribution it was sampled from."""
        return self._read(Signal.SAMPLER_LOGP)

    @property
    def student_hidden(self) -> Mapping[int, Float[Tensor, "B T D"]]:
        """Hidden states of the student by layer; gradient."""
        return self._readable_hidden(self._student_hidden)

    @property
    def teacher_hidden(self) -> Mapping[int, Float[Tensor, "B T D"]]:
        """Hidden states of the teacher by layer."""
        return self._readable_hidden(self._teacher_hidden)

    def _readable_hidden(self, hidden: Mapping[int, Tensor]) -> Mapping[int, Tensor]:
        if self._needs is None:
            return hidden
        if not self._needs.hidden_layers:
            raise UndeclaredNeed(
                f"{self._reader} reads hidden states but does not declare them. Add Need.hidden(...) to its `needs`."
            )
        return {layer: hidden[layer] for layer in self._needs.hidden_layers}


@dataclass(frozen=True)
class TokenLoss:
    """Per-token values (nats or whatever the loss measures) and the weights they are reduced with."""

    values: Float[Tensor, "B T"]
    weights: Float[Tensor, "B T"]

    def reweighted(self, weights: Float[Tensor, "B T"]) -> TokenLoss:
        """The same values, with the weights multiplied in."""
        return replace(self, weights=self.weights * weights)

    def with_values(self, values: Float[Tensor, "B T"]) -> TokenLoss:
        """Other values under the same weights."""
        return replace(self, values=values)


@dataclass(frozen=True)
class Transform:
    """Changes the main term, `(TokenLoss, TokenScores) -> TokenLoss`, in list order. Subclass as a frozen dataclass."""

    needs: ClassVar[Need]
    is_token_local: ClassVar[bool] = False
    """Whether a token's result is made of its own scores alone; saying so saves time and changes nothing."""

    def __call__(self, loss: TokenLoss, scores: TokenScores) -> TokenLoss:
        raise NotImplementedError

    def metrics(self, before: TokenLoss, after: TokenLoss, scores: TokenScores) -> dict[str, Tensor]:
        """Per-token values to log as masked means under `<name>/<key>`; none by default."""
        return {}


@dataclass(frozen=True)
class Loss:
    """Adds a term: `TokenScores -> values (B, T)`. Subclass it as a frozen dataclass."""

    needs: ClassVar[Need]
    is_token_local: ClassVar[bool] = False
    """Whether a token's value is made of its own scores alone; saying so saves time and changes nothing."""

    coefficient: float = field(default=1.0, kw_only=True)
    """What the term is multiplied by."""
    weighted: bool = field(default=False, kw_only=True)
    """Take the weights of the main term (agreement, token_filter) rather than 1."""

    def __call__(self, scores: TokenScores) -> Float[Tensor, "B T"]:
        raise NotImplementedError

    def metrics(self, values: Float[Tensor, "B T"], scores: TokenScores) -> dict[str, Tensor]:
        """Per-token values to log as masked means under `<name>/<key>`; none by default."""
        return {}
