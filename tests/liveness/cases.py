"""For every option: two values, and where the difference shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.liveness import observers as see


class Case(NamedTuple):
    """`observe` tells a run with the first value of `option` from one with the second; `shared` belongs to both."""

    observe: Callable[[dict[str, Any]], Any]
    option: str
    """As in an override: `objective.k`."""
    first: Any
    second: Any
    shared: dict[str, Any] = {}  # noqa: RUF012


# Completions of the rows, so that two losses differ by the option alone.
FIXED: dict[str, Any] = {"rollout.backend": "dataset"}
AUXILIARY: dict[str, Any] = {"contexts.auxiliary": {"type": "column"}}
NEGATIVE: dict[str, Any] = {"contexts.negative": {"type": "column"}}
EVAL: dict[str, Any] = {"data.eval": {"path": "rows.jsonl"}, "data.max_prompt_length": 2000}
QUESTIONS: dict[str, Any] = {"data.train": {"path": "questions.jsonl"}}
FOLDER: dict[str, Any] = {"data.train": {"path": "folder"}}
CHATS: dict[str, Any] = {"data.train": {"path": "chats.jsonl"}}
DROP: dict[str, Any] = {"data.on_overflow": "drop"}
JSD: dict[str, Any] = {**FIXED, "objective.divergence": "jsd"}
TOP_K: dict[str, Any] = {**FIXED, "objective.support": "topk", "objective.k": 2}
EMA: dict[str, Any] = {**FIXED, "teacher.kind": "ema", "teacher.every": 1, "training.max_steps": 3}


def component(kind: str, **more: Any) -> dict[str, Any]:
    """Fixed completions, and this component with these options."""
    return {**FIXED, "components": [{"type": kind, **more}]}


def after_filter(kind: str) -> dict[str, Any]:
    """The same as the second component, after one whose weights it can take."""
    return {**FIXED, "components": [{"type": "token_filter", "fraction": 0.5}, {"type": kind}]}


AGREEMENT = {**component("agreement"), **AUXILIARY}
CONTRASTIVE = {**component("contrastive"), **NEGATIVE}
FILTER = component("token_filter", fraction=0.5)

SOLVED: dict[str, Any] = {"data.train": {"path": "solved.jsonl"}}
FEW_SHOT = {**AGREEMENT, **SOLVED, "contexts.auxiliary": {"type": "few_shot"}}
VERIFIED = {**CONTRASTIVE, **SOLVED, "data.train.grader": "tests.liveness.scene:is_even"}
VERIFIED |= {"contexts.negative": {"type": "verified"}, "model.name_or_path": "ending"}
GATE = {"signal": "student_entropy", "fraction": 0.25}

CASES = {
    "Agreement.floor": Case(see.losses, "components.0.floor", 0.1, 0.9, AGREEMENT),
    "Agreement.granularity": Case(see.losses, "components.0.granularity", "token", "sequence", AGREEMENT),
    "Agreement.include_primary": Case(see.losses, "components.0.include_primary", False, True, AGREEMENT),
    "Agreement.scale": Case(see.losses, "components.0.scale", "absolute", "quantile", AGREEMENT),
    "Agreement.statistic": Case(see.losses, "components.0.statistic", "variance", "range", AGREEMENT),
    "Agreement.strength": Case(see.losses, "components.0.strength", 1, 5, AGREEMENT),
    "AuxiliaryContexts.count": Case(see.contexts, "contexts.auxiliary.count", 2, 3, FEW_SHOT),
    "AuxiliaryContexts.gate": Case(see.losses, "contexts.auxiliary.gate", None, GATE, AGREEMENT),
    "AuxiliaryContexts.include_privileged": Case(
        see.contexts, "contexts.auxiliary.include_privileged", False, True, FEW_SHOT
    ),
    "AuxiliaryContexts.num_shots": Case(see.contexts, "contexts.auxiliary.num_shots", 1, 2, FEW_SHOT),
    "AuxiliaryContexts.retriever": Case(
        see.refusal,
        "contexts.auxiliary.retriever",
        "bm25",
        "./no-model",
        {**FEW_SHOT, "contexts.auxiliary.select": "retrieval"},
    ),
    "AuxiliaryContexts.seed": Case(see.contexts, "contexts.auxiliary.seed", 0, 1, FEW_SHOT),
    "AuxiliaryContexts.select": Case(
        see.contexts, "contexts.auxiliary", {"select": "random"}, {"select": "retrieval", "retriever": "bm25"}, FEW_SHOT
    ),
    "AuxiliaryContexts.type": Case(
        see.contexts, "contexts.auxiliary.type", "few_shot", "tests.liveness.scene:two_contexts", FEW_SHOT
    ),
    "Contrastive.coefficient": Case(see.losses, "components.0.coefficient", 1, 2, CONTRASTIVE),
    "Contrastive.form": Case(see.losses, "components.0.form", "paper", "directional", CONTRASTIVE),
    "Contrastive.margin": Case(see.losses, "components.0.margin", 0.5, 2, CONTRASTIVE),
    "Contrastive.weighted": Case(
        see.losses, "components.1.weighted", False, True, {**after_filter("contrastive"), **NEGATIVE}
    ),
    "CrossEntropy.coefficient": Case(see.losses, "components.0.coefficient", 1, 2, component("cross_entropy")),
    "CrossEntropy.weighted": Case(see.losses, "components.1.weighted", False, True, after_filter("cross_entropy")),
    "DataSection.allow_code_execution": Case(
        see.refusal, "data.allow_code_execution", False, True, {"data.train": {"task": "mbpp", "path": "mbpp.jsonl"}}
    ),
    "DataSection.eval": Case(see.eval_prompts, "data.eval", None, {"path": "rows.jsonl"}),
    "DataSection.limit": Case(see.prompts, "data.limit", 2, 3),
    "DataSection.privileged_template": Case(
        see.views,
        "data.privileged_template",
        "{hint}",
        "It is {hint}.",
        {**QUESTIONS, "data.prompt_template": "{question}"},
    ),
    "DataSection.prompt_template": Case(
        see.views,
        "data.prompt_template",
        "{question}",
        "{question}?",
        {**QUESTIONS, "data.privileged_template": "{hint}"},
    ),
    "DataSection.train": Case(see.prompts, "data.train", {"path": "rows.jsonl"}, {"path": "chats.jsonl"}),
    "DataSource.data_files": Case(see.prompts, "data.train.data_files", "train.jsonl", ["other.jsonl"], FOLDER),
    "DataSource.grader": Case(see.accuracy, "data.eval.grader", "exact_match", "regex", EVAL),
    "DataSource.name": Case(see.prompts, "data.train.name", "one", "two", FOLDER),
    "DataSource.path": Case(see.prompts, "data.train.path", "rows.jsonl", "chats.jsonl"),
    "DataSource.split": Case(see.prompts, "data.train.split", "train", "test", FOLDER),
    "DataSource.task": Case(see.prompts, "data.train.task", None, "cos_e", {"data.train": {"path": "quiz.jsonl"}}),
    "Demonstration.repeats": Case(see.views, "contexts.privileged.repeats", 1, 3),
    "Demonstration.style": Case(see.views, "contexts.privileged.style", "turns", "message"),
    "Demonstration.template": Case(
        see.views,
        "contexts.privileged.template",
        "{question} {demonstration}",
        "{demonstration} {question}",
        {"contexts.privileged.style": "message"},
    ),
    "Divergence.beta": Case(see.losses, "objective.beta", 0.2, 0.7, JSD),
    "Divergence.divergence": Case(see.losses, "objective.divergence", "forward_kl", "reverse_kl", FIXED),
    "Divergence.impl": Case(see.logit_widths, "objective.impl", "fused", "full", FIXED),
    "Divergence.k": Case(see.losses, "objective.k", 1, 5, TOP_K),
    "Divergence.normalize_weights": Case(see.losses, "objective.normalize_weights", False, True, AGREEMENT),
    "Divergence.reduction": Case(see.losses, "objective.reduction", "token_mean", "sequence_mean", FIXED),
    "Divergence.reference": Case(
        see.losses, "objective.reference", False, True, {**FILTER, "objective.reduction": "sequence_mean"}
    ),
    "Divergence.scaled": Case(see.losses, "objective.scaled", False, True, JSD),
    "Divergence.support": Case(
        see.losses, "objective.support", "full", "sampled", {**FIXED, "objective.divergence": "reverse_kl"}
    ),
    "Divergence.tail": Case(see.losses, "objective.tail", False, True, TOP_K),
    "Divergence.temperature": Case(see.losses, "objective.temperature", 1, 2, FIXED),
    "DivergenceClip.ceiling": Case(see.losses, "components.0.ceiling", 0.1, 0.2, component("divergence_clip")),
    "DivergenceClip.quantile": Case(see.losses, "components.0.quantile", 0.3, 0.6, component("divergence_clip")),
    "EMATeacher.decay": Case(see.losses, "teacher.decay", 0.0, 0.9, EMA),
    "EMATeacher.every": Case(see.losses, "teacher.every", 1, 2, {**EMA, "teacher.decay": 0.5}),
    "EvalSection.every": Case(see.evaluations, "eval.every", None, 1, EVAL),
    "EvalSection.examples": Case(see.num_kept, "eval.examples", 0, 2, EVAL),
    "EvalSection.limit": Case(see.eval_prompts, "eval.limit", 1, 2, EVAL),
    "EvalSection.tasks": Case(see.evaluations, "eval.tasks", [], ["cmd"], {**EVAL, "eval.limit": 2}),
    "FeatureMatch.coefficient": Case(see.losses, "components.0.coefficient", 1, 2, component("feature_match")),
    "FeatureMatch.distance": Case(see.losses, "components.0.distance", "mse", "cosine", component("feature_match")),
    "FeatureMatch.layers": Case(see.losses, "components.0.layers", [-1], [0], component("feature_match")),
    "FeatureMatch.weighted": Case(see.losses, "components.1.weighted", False, True, after_filter("feature_match")),
    "Gate.fraction": Case(
        see.losses,
        "contexts.auxiliary.gate.fraction",
        0.25,
        0.75,
        {**AGREEMENT, "contexts.auxiliary.gate.signal": "student_entropy"},
    ),
    "Gate.signal": Case(
        see.losses,
        "contexts.auxiliary.gate.signal",
        "sampler_nll",
        "student_entropy",
        {**AGREEMENT, "rollout.backend": "hf"},
    ),
    "ModelSection.attn_implementation": Case(see.model, "model.attn_implementation", "eager", "sdpa"),
    "ModelSection.dtype": Case(see.model, "model.dtype", "float32", "bfloat16"),
    "ModelSection.gguf_file": Case(see.model, "model.gguf_file", None, "tiny.gguf"),
    "ModelSection.name_or_path": Case(see.model, "model.name_or_path", "model", "another"),
    "ModelSection.revision": Case(see.model, "model.revision", "main", "next", {"model.name_or_path": "tiny/model"}),
    "ModelSection.trust_remote_code": Case(
        see.model, "model.trust_remote_code", False, True, {"model.name_or_path": "coded"}
    ),
    "NegativeContexts.attempts": Case(see.num_negatives, "contexts.negative.attempts", 1, 8, VERIFIED),
    "NegativeContexts.gate": Case(see.losses, "contexts.negative.gate", None, GATE, CONTRASTIVE),
    "NegativeContexts.seed": Case(see.contexts, "contexts.negative.seed", 0, 1, VERIFIED),
    "NegativeContexts.type": Case(
        see.contexts, "contexts.negative.type", "verified", "tests.liveness.scene:wrong", VERIFIED
    ),
    "PromptOptions.max_prompt_length": Case(see.prompts, "data.max_prompt_length", 16, 20, DROP),
    "PromptOptions.max_teacher_prompt_length": Case(see.prompts, "data.max_teacher_prompt_length", 70, 90, DROP),
    "PromptOptions.on_overflow": Case(
        see.prompts, "data.on_overflow", "drop", "truncate_privileged", {"data.max_teacher_prompt_length": 90}
    ),
    "PromptOptions.student_chat_kwargs": Case(
        see.views, "data.student_chat_kwargs", {"note": "A"}, {"note": "B"}, CHATS
    ),
    "PromptOptions.teacher_chat_kwargs": Case(
        see.views, "data.teacher_chat_kwargs", {"note": "A"}, {"note": "B"}, CHATS
    ),
    "RolloutOptions.backend": Case(see.completions, "rollout.backend", "hf", "dataset"),
    "RolloutOptions.generation_batch_size": Case(see.num_rollout_passes, "rollout.generation_batch_size", 2, 4),
    "RolloutOptions.log_completions": Case(see.num_printed, "rollout.log_completions", False, True),
    "RolloutOptions.mask_truncated_completions": Case(
        see.num_loss_tokens, "rollout.mask_truncated_completions", False, True
    ),
    "RolloutOptions.max_completion_length": Case(see.completions, "rollout.max_completion_length", 3, 4),
    "RolloutOptions.min_p": Case(see.completions, "rollout.min_p", 0, 0.5),
    "RolloutOptions.num_completions_to_print": Case(
        see.num_printed, "rollout.num_completions_to_print", 1, 2, {"rollout.log_completions": True}
    ),
    "RolloutOptions.num_generations": Case(see.num_loss_tokens, "rollout.num_generations", 1, 2),
    "RolloutOptions.num_loss_tokens_to_skip": Case(see.num_loss_tokens, "rollout.num_loss_tokens_to_skip", 0, 2),
    "RolloutOptions.on_policy_fraction": Case(see.completions, "rollout.on_policy_fraction", 0, 1),
    "RolloutOptions.repetition_penalty": Case(see.completions, "rollout.repetition_penalty", 1, 5),
    "RolloutOptions.temperature": Case(see.completions, "rollout.temperature", 0, 2),
    "RolloutOptions.top_k": Case(see.completions, "rollout.top_k", 0, 2),
    "RolloutOptions.top_p": Case(see.completions, "rollout.top_p", 1, 0.3),
    "RunConfig.components": Case(see.losses, "components", [], [{"type": "cross_entropy"}], FIXED),
    "RunConfig.peft": Case(see.num_trainable, "peft", None, {"r": 2, "target_modules": "all-linear"}),
    "RunConfig.teacher": Case(
        see.losses, "teacher", {"kind": "base"}, {"kind": "live"}, {**FIXED, "training.max_steps": 2}
    ),
    "RunConfig.training": Case(see.losses, "training.max_steps", 1, 2, FIXED),
    "TokenFilter.fraction": Case(see.losses, "components.0.fraction", 0.3, 0.6, component("token_filter")),
}
