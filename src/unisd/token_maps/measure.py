"""Completions token by token, by the code of a training step: the same passes, scores and components."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from unisd.mean_weight import with_mean_weight
from unisd.modes import evaluation_mode
from unisd.rollout.collate import Row, collate, local_counts
from unisd.scoring.forward import PassOutput, run_pass
from unisd.scoring.plan import Plan
from unisd.step import Step, log_scores
from unisd.token_maps.record import Candidate, Measure, TokenMap
from unisd.trainer import SelfDistillTrainer
from unisd.types import Need, RolloutBatch, TokenScores

NUM_CANDIDATES = 5
"""Likeliest tokens kept of student and teacher."""
LEFT_OUT = ("active", "below_0.99", "changed", "entropy", "sampler_logp", "teacher_entropy", "weight_max", "weight_min")
"""Logged names, or their ends, that other measures of the same token say better."""

_TOKENS_PER_CHUNK = 64
_ORDER = ("divergence", "loss/divergence", "weight_mean", "", "loss/", "logp")


def token_maps(trainer: SelfDistillTrainer, rows: Sequence[Row], *, max_tokens: int | None = None) -> list[TokenMap]:
    """What the trainer's step says about every token of these completions as the weights are now; one map per row.

    Nothing is logged and nothing learns. A micro-batch is as large as in training; what is taken over a micro-batch (a
    quantile, a mean weight) is taken over these completions. The first `max_tokens` of each are kept.
    """
    size = trainer.args.per_device_train_batch_size
    found: list[TokenMap] = []
    for start in range(0, len(rows), size):
        found += _measured(trainer, rows[start : start + size], max_tokens)
    return found


def _measured(trainer: SelfDistillTrainer, rows: Sequence[Row], max_tokens: int | None) -> list[TokenMap]:
    options: Any = trainer.args
    tokenizer, model = trainer.processing_class, trainer.model
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    assert model is not None
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    # One process measures, so there is nothing to join.
    step = replace(trainer.step, gather=None, plan=_with_log_probabilities(trainer.step.plan))
    batch = collate(rows, pad=pad, options=options, counts=local_counts(rows, options)).to(options.device)
    with torch.no_grad(), evaluation_mode(model), trainer.accelerator.autocast():
        if trainer.objective.normalize_weights:
            (batch,) = with_mean_weight(step, model, [batch])
        teacher = step.teacher_scores(model, batch)
        scores = step.student_scores(model, batch, teacher)
        measures = _logged_per_token(trainer, scores)
        tops = (
            _candidates(_student_pass(step, model, batch), tokenizer, batch, step.objective.temperature, max_tokens),
            _candidates(teacher.privileged, tokenizer, batch, step.objective.temperature, max_tokens),
        )
    return [_map_of(row, index, batch, measures, tops, tokenizer, max_tokens) for index, row in enumerate(rows)]


def _with_log_probabilities(plan: Plan) -> Plan:
    """The same passes, of which both realised log-probabilities are kept: they cost nothing more."""
    need = plan.need | Need.STUDENT_LOGP
    return replace(plan, need=need | Need.TEACHER_LOGP if plan.has_teacher else need)


def _student_pass(step: Step, model: Any, batch: RolloutBatch) -> PassOutput:
    return run_pass(model, batch.views["prompt"], batch, whole_logits=step.whole_logits)


def _logged_per_token(trainer: SelfDistillTrainer, scores: TokenScores) -> dict[str, Float[Tensor, "B T"]]:
    """Every per-token tensor that a step would log the mean of, and the realised log-probabilities."""
    with _logging_into(trainer) as logged:
        losses = trainer.compute_token_losses(scores)
        log_scores(scores, losses, trainer.log_metric)
    logged["student_logp"] = scores.student_logp
    for name, need, read in (
        ("teacher_logp", Need.TEACHER_LOGP, lambda: scores.teacher_logp),
        ("negative_logp", Need.NEGATIVE_LOGP, lambda: scores.negative_logp),
    ):
        if scores.has(need):
            logged[name] = read()
    if trainer.objective.normalize_weights:
        logged["normalized/weight_mean"] = losses["divergence"].weights
    main = logged.get("loss/divergence")
    if main is not None and torch.equal(main, logged["divergence"]):
        del logged["loss/divergence"]
    kept = {name: values for name, values in logged.items() if name.rpartition("/")[2] not in LEFT_OUT}
    return dict(sorted(kept.items(), key=lambda entry: _place(entry[0])))


@contextmanager
def _logging_into(trainer: SelfDistillTrainer) -> Iterator[dict[str, Tensor]]:
    """Inside, what the trainer logs per token is kept here instead, so that measuring leaves no trace in the log."""
    logged: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor, mask: Tensor | None, *, fold: str = "mean") -> None:
        if mask is not None and values.shape == mask.shape and values.ndim == 2 and fold == "mean":
            logged[name] = values.detach()

    own = vars(trainer).get("log_metric")
    trainer.log_metric = keep  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield logged
    finally:
        if own is None:
            del trainer.log_metric
        else:
            trainer.log_metric = own


def _place(name: str) -> int:
    """Where a measure stands: what is learned, what is done to it, what is added, what it is made of."""
    if name in _ORDER:
        return _ORDER.index(name)
    starts = (name.endswith("weight_mean"), not name.startswith("loss/") and not name.endswith("_logp"))
    return next((2 + place for place, holds in enumerate(starts) if holds), 4 if name.startswith("loss/") else 5)


def _candidates(
    output: PassOutput | None,
    tokenizer: PreTrainedTokenizerBase,
    batch: RolloutBatch,
    temperature: float,
    max_tokens: int | None,
) -> list[list[tuple[Candidate, ...]]]:
    """The likeliest tokens at every position of every sequence; no list where there is no pass."""
    if output is None:
        return []
    found = []
    for states, mask in zip(output.states, batch.completion_mask, strict=True):
        kept = states[mask][:max_tokens]
        tops = [
            (output.head.logits(chunk) / temperature).softmax(-1).topk(NUM_CANDIDATES)
            for chunk in kept.split(_TOKENS_PER_CHUNK)
        ]
        pairs = [
            zip(ids, probabilities, strict=True)
            for top in tops
            for ids, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]
        # A model that has diverged has no likeliest tokens.
        found.append(
            [
                tuple((_token_text(tokenizer, token), share) for token, share in pair if math.isfinite(share))
                for pair in pairs
            ]
        )
    return found


def _token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The token by itself: bytes that are a part of a character as `\\xe7`, and the space that some decoders drop."""
    text = str(tokenizer.decode([token]))
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if "\ufffd" in text:
        fallback = re.fullmatch("<0x([0-9A-F]{2})>", piece)
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        parts = bytes.fromhex(fallback[1]) if fallback else bytes(byte_of[one] for one in piece if one in byte_of)
        return parts.decode("utf-8", "backslashreplace") or text
    num_spaces = len(piece) - len(piece.lstrip("\u2581"))
    return f"{' ' * num_spaces}{text.lstrip(' ')}" if num_spaces else text


def _map_of(
    row: Row,
    index: int,
    batch: RolloutBatch,
    measures: dict[str, Tensor],
    tops: tuple[list[list[tuple[Candidate, ...]]], list[list[tuple[Candidate, ...]]]],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int | None,
) -> TokenMap:
    length = len(row.completion.ids)
    ids = row.completion.ids[:max_tokens]
    student, teacher = (tuple(each[index]) if each else () for each in tops)
    return TokenMap(
        tokens=tuple(_token_text(tokenizer, token) for token in ids),
        is_counted=tuple(batch.mask[index, : len(ids)].tolist()),
        measures=tuple(
            Measure(name, _kind(name, values), _finite(values[index, : len(ids)])) for name, values in measures.items()
        ),
        student_top=student,
        teacher_top=teacher,
        num_left_out=length - len(ids),
    )


def _kind(name: str, values: Tensor) -> Literal["value", "weight", "flag", "logp"]:
    if name.endswith("_logp"):
        return "logp"
    if name.endswith("weight_mean"):
        return "weight"
    is_flag = "/" in name and not name.startswith("loss/") and bool(((values == 0) | (values == 1)).all())
    return "flag" if is_flag else "value"


def _finite(values: Tensor) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values.tolist())
