"""What a run's logged metrics say about knobs that do nothing, and about collapse and leakage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from jaxtyping import Bool, Float
from torch import Tensor

CHECK_STEP = 10
"""Optimizer step after which dead knobs are reported."""

_TOP_FRACTION = 0.05
_SMALLEST_DIVERGENCE = 1e-6
_FIRST_TOKEN_RATIO = 10.0
_TOP_SHARE = 0.9
_CLIPPED_RATIO = 0.5
_LENGTH_GROWTH = 1.5
_ENTROPY_FALL = 0.2
_LEAST_GRADIENT = 0.05


def divergence_profile(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> dict[str, Tensor]:
    """Where a micro-batch's divergence sits: share of the top 5 % of tokens, mean on first tokens, median of all."""
    valid = values.detach()[mask]
    if not len(valid):
        return {}
    num_top = max(1, round(_TOP_FRACTION * len(valid)))
    first = mask & (mask.cumsum(-1) == 1)
    return {
        "top_5_percent_share": valid.topk(num_top).values.sum() / valid.sum().clamp(min=_SMALLEST_DIVERGENCE),
        "first_token": values.detach()[first].mean(),
        "median_token": valid.median(),
    }


def ngram_overlap(
    completion: Sequence[int], privileged: Sequence[int], prompt: Sequence[int], *, size: int = 4
) -> float:
    """Share of the completion's token n-grams that occur in the privileged view and not in the student's prompt."""
    grams = _ngrams(completion, size)
    if not grams:
        return 0.0
    only_privileged = set(_ngrams(privileged, size)) - set(_ngrams(prompt, size))
    return sum(gram in only_privileged for gram in grams) / len(grams)


def _ngrams(ids: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + size]) for start in range(len(ids) - size + 1)]


def dead_knobs(history: Sequence[Mapping[str, float]], *, not_asked_for: Collection[str] = ()) -> list[str]:
    """What was configured and did nothing, from the training entries of a log history; one sentence each.

    Parts that are `not_asked_for`, such as the clip that a run has by default, may do nothing.
    """
    entries = [_of_scored(entry) for entry in history if "loss" in entry]
    names = sorted({name for entry in entries for name in entry if name.partition("/")[0] not in not_asked_for})
    found = [_dead(name, _series(entries, name)) for name in names]
    last = entries[-1] if entries else {}
    if last.get("teacher/num_updates") == 0 and last.get("step", 0) > CHECK_STEP:
        found.append("teacher: it was never updated. Lower teacher.every, or use kind: base.")
    if last.get("teacher/num_updates", 0) and not last["teacher/distance_to_base"]:
        found.append(
            "teacher: it was updated and has not moved from the initial model. Lower teacher.decay, or use kind: base."
        )
    return [sentence for sentence in found if sentence]


def _of_scored(entry: Mapping[str, float]) -> dict[str, float]:
    """The entry, with the contrastive term's share of tokens taken over those that have a scored negative view."""
    scored = 1 - entry.get("negative/passes_saved", 0.0)
    return {name: value / (scored or 1) if name.endswith("/gradient") else value for name, value in entry.items()}


def _dead(name: str, values: Sequence[float]) -> str:
    owner, _, key = name.rpartition("/")
    if key == "changed" and max(values) == 0:
        return f"{owner}: it changed no token's value or weight. Adjust it, or remove it."
    if key == "below_0.99" and max(values) == 0:
        return f"{owner}: every weight is above 0.99. Raise its strength, or use views that differ more."
    if key == "gradient" and sum(values) / len(values) < _LEAST_GRADIENT:
        share = 100 * (1 - sum(values) / len(values))
        return (
            f"{owner}: no gradient on {share:.0f} % of the tokens with a negative view. "
            "Try form: directional or a larger margin."
        )
    if owner == "loss" and all(value == 0 for value in values):
        return f"{key}: the term is zero. Adjust it, or remove it."
    if name == "divergence" and max(values) < _SMALLEST_DIVERGENCE:
        return "teacher: it agrees with the student on every token. Check the privileged context and teacher.kind."
    return ""


def signals(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Signs of collapse, leakage or mismatched prompts in a log history; one sentence each."""
    entries = [entry for entry in history if "loss" in entry]
    found = []
    first, median = (_mean(entries, f"divergence/{key}") for key in ("first_token", "median_token"))
    if first > _FIRST_TOKEN_RATIO * max(median, _SMALLEST_DIVERGENCE) and first > 0.1:
        found.append(
            f"first tokens diverge {first:.2g} nats against a median of {median:.2g}: compare the two views' endings "
            "(chat template, thinking switches) with `unisd probe`."
        )
    if _mean(entries, "divergence/top_5_percent_share") > _TOP_SHARE:
        found.append("5 % of the tokens hold over 90 % of the divergence: lower divergence_clip's ceiling.")
    if _mean(entries[-CHECK_STEP:], "completions/clipped_ratio") > _CLIPPED_RATIO:
        found.append("most completions are cut at max_completion_length: raise it, or check the end-of-sequence ids.")
    early, late = _trend(entries, "completions/mean_length")
    if late > _LENGTH_GROWTH * early > 0:
        found.append(f"completions grew from {early:.0f} to {late:.0f} tokens.")
    early, late = _trend(entries, "entropy")
    if 0 < late < _ENTROPY_FALL * early:
        found.append(f"the student's entropy fell from {early:.2g} to {late:.2g} nats.")
    return found


def _series(entries: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [entry[name] for entry in entries if name in entry]


def _mean(entries: Sequence[Mapping[str, float]], name: str) -> float:
    values = _series(entries, name)
    return sum(values) / len(values) if values else 0.0


def _trend(entries: Sequence[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Means over the first and the last third."""
    third = max(1, len(entries) // 3)
    return _mean(entries[:third], name), _mean(entries[-third:], name)
