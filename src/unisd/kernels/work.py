"""The tokens of one call, packed, and what both heads say about a chunk of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unisd.kernels.chunk import equal_chunks, padded
from unisd.kernels.gemm import Projection, add_weight_gradient, project, project_back
from unisd.kernels.rows import PairScores, Rows, RowSpec

DIFFERENTIABLE = ("divergence", "student_logp")
"""The scores that can carry gradient."""


class TokenScores(NamedTuple):
    """Per token, nats; what needs a teacher is `None` without one."""

    divergence: Tensor | None
    """Between teacher and student."""
    student_logp: Tensor
    """Log-probability of the realised token under the student."""
    teacher_logp: Tensor | None
    """The same under the teacher."""
    student_entropy: Tensor
    """Entropy of the student."""
    teacher_entropy: Tensor | None
    """Entropy of the teacher."""


class Weights(NamedTuple):
    """How fast a loss grows with the scores of each token; `None` is 0 everywhere."""

    divergence: Float[Tensor, " n"] | None
    student_logp: Float[Tensor, " n"] | None

    def at(self, tokens: slice | Tensor) -> Weights:
        """Those of some tokens."""
        return Weights(*(None if values is None else values[tokens] for values in self))


@dataclass(frozen=True)
class Work:
    """N packed tokens; nothing in it carries gradient."""

    student_states: Float[Tensor, "N D"]
    teacher_states: Float[Tensor, "N E"] | None
    """`None` where `spec.divergence` is `none`."""
    ids: Int[Tensor, " N"]
    student: Projection
    teacher: Projection | None
    spec: RowSpec
    rows: Rows
    chunk_rows: int
    dtype: torch.dtype
    """Of logits and scores."""

    def chunks(self) -> Iterator[Chunk]:
        """In order. All use the same buffers: a chunk is done with before the next one is asked for."""
        chunks = equal_chunks(len(self.ids), self.chunk_rows)
        if not chunks:
            return
        num_rows = max(tokens.stop - tokens.start for tokens in chunks)
        num_buffers = 1 if self.teacher is None else 2
        vocabulary = len(self.student.weight)
        buffer = self.student_states.new_empty(num_buffers * num_rows, padded(vocabulary), dtype=self.dtype)
        for tokens in chunks:
            # Student above teacher without a gap: where they share a head, one matrix product serves both.
            yield Chunk(self, tokens, buffer[: num_buffers * (tokens.stop - tokens.start), :vocabulary])

    def only(self, index: Int[Tensor, " M"]) -> Work:
        """The same for some of the tokens."""
        teacher_states = None if self.teacher_states is None else self.teacher_states[index]
        return replace(
            self, student_states=self.student_states[index], teacher_states=teacher_states, ids=self.ids[index]
        )

    def empty(self, *shape: int) -> Tensor:
        """Uninitialised, (N, *shape), in the type of the scores."""
        return self.student_states.new_empty(len(self.ids), *shape, dtype=self.dtype)

    def no_scores(self) -> TokenScores:
        """Room for the scores of all tokens."""
        needs_teacher = ("divergence", "teacher_logp", "teacher_entropy")
        rooms = (None if self.teacher is None and name in needs_teacher else self.empty() for name in SCORES)
        return TokenScores(*rooms)  # pyright: ignore[reportArgumentType]

    @contextmanager
    def in_full_precision(self) -> Iterator[None]:
        """Without gradient, and without autocast, which would round the logits."""
        with torch.no_grad(), torch.autocast(self.ids.device.type, enabled=False):
            yield


SCORES = TokenScores._fields


@dataclass(frozen=True)
class Chunk:
    """Some consecutive tokens of the work, and the buffers that their logits go through."""

    work: Work
    tokens: slice
    buffer: Float[Tensor, "m V"]

    @property
    def student_logits(self) -> Float[Tensor, "n V"]:
        """The first half of the buffer, or all of it where there is no teacher."""
        return self.buffer[: self.tokens.stop - self.tokens.start]

    @property
    def teacher_logits(self) -> Float[Tensor, "n V"] | None:
        """The second half."""
        return None if self.work.teacher is None else self.buffer[self.tokens.stop - self.tokens.start :]

    @property
    def states(self) -> Float[Tensor, "n D"]:
        """The student's."""
        return self.work.student_states[self.tokens]

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """The realised tokens."""
        return self.work.ids[self.tokens]

    def score(self, *, has_gradient: bool) -> PairScores:
        """Both projections, and what the rows say; `has_gradient` where a gradient follows."""
        work, teacher_logits = self.work, self.teacher_logits
        if work.teacher is None or work.teacher_states is None or teacher_logits is None:
            project(self.states, work.student, out=self.student_logits)
        elif work.student.is_shared_with(work.teacher):
            both = (self.states, work.teacher_states[self.tokens])
            dtype = both[0].dtype if both[0].dtype == both[1].dtype else work.dtype
            project(torch.cat([states.to(dtype) for states in both]), work.student, out=self.buffer)
        else:
            project(self.states, work.student, out=self.student_logits)
            project(work.teacher_states[self.tokens], work.teacher, out=teacher_logits)
        return work.rows.pair(self.student_logits, teacher_logits, self.ids, work.spec, has_gradient=has_gradient)

    def fill(self, scores: TokenScores, pair: PairScores) -> None:
        """Copies this chunk's scores to their place."""
        for name in SCORES:
            target, values = getattr(scores, name), getattr(pair, name)
            if target is not None:
                target[self.tokens] = values

    def gradient(
        self, pair: PairScores, weights: Weights, *, out: Float[Tensor, "n V"] | None = None
    ) -> Float[Tensor, "n V"]:
        """With respect to z of the weighted sum of scores; over the student's buffer unless told."""
        out = self.student_logits if out is None else out
        self.work.rows.gradient(
            self.student_logits,
            self.teacher_logits,
            self.ids,
            self.work.spec,
            pair,
            divergence_weight=weights.divergence,
            logp_weight=weights.student_logp,
            out=out,
        )
        return out

    def unit_gradients(self, pair: PairScores, names: Sequence[str]) -> Iterator[tuple[str, Float[Tensor, "n V"]]]:
        """The gradient of each named score alone; done with before the next one is asked for."""
        ones = pair.student_logp.new_ones(len(self.ids))
        for name in DIFFERENTIABLE:
            if name in names:
                weights = Weights(ones, None) if name == "divergence" else Weights(None, ones)
                # The student's buffer is still read for the second score.
                is_last = name == names[-1]
                yield name, self.gradient(pair, weights, out=None if is_last else self.teacher_logits)

    def weighted(
        self, gradients: Sequence[Float[Tensor, "n V"]], weights: Sequence[Float[Tensor, " N"] | None]
    ) -> Float[Tensor, "n V"]:
        """The sum of kept unit gradients times their weights, over the student's buffer."""
        out = self.student_logits
        given = [(kept, values) for kept, values in zip(gradients, weights, strict=True) if values is not None]
        for number, (kept, values) in enumerate(given):
            column = values[self.tokens, None]
            if number == 0:
                torch.mul(kept, column, out=out)
            else:
                out.addcmul_(kept, column)
        return out

    def back_to_states(self, gradient: Float[Tensor, "n V"], *, out: Float[Tensor, "N D"]) -> None:
        """From z to the student's states: one product with the head, into this chunk's rows."""
        project_back(gradient, self.work.student.weight, out=out[self.tokens])


@dataclass(frozen=True)
class HeadGradient:
    """Where the gradients of a trainable head add up, in at least float32."""

    weight: Float[Tensor, "V D"] | None
    bias: Float[Tensor, " V"] | None

    @classmethod
    def zeros(cls, work: Work, has_weight: bool, has_bias: bool) -> HeadGradient:
        """Nothing yet, for what is trainable."""
        weight = work.student.weight
        return cls(
            torch.zeros_like(weight, dtype=work.dtype) if has_weight else None,
            weight.new_zeros(len(weight), dtype=work.dtype) if has_bias else None,
        )

    def add(self, gradient: Float[Tensor, "n V"], states: Float[Tensor, "n D"]) -> None:
        """One chunk's share, from the gradient with respect to z."""
        if self.weight is not None:
            add_weight_gradient(gradient, states, out=self.weight)
        if self.bias is not None:
            self.bias.add_(gradient.sum(0))
