"""Faults that no single section shows: keys that contradict each other, and places a run cannot write to."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from unisd.config.dump import component_name
from unisd.config.errors import ConfigError, suggestion
from unisd.config.import_path import import_object
from unisd.config.schema import RunConfig
from unisd.contexts.retrieval import available_retriever
from unisd.mean_weight import check_weights_known
from unisd.objective.clip import DivergenceClip, check_clippable
from unisd.tasks import TASKS
from unisd.tasks.benchmark import Benchmark, evaluation_only
from unisd.tasks.code import CodeTask, execution_refused
from unisd.tasks.local import LocalTask
from unisd.tasks.source import DataSource
from unisd.teacher import EMATeacher
from unisd.types import Loss, Signal, Transform

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_combinations(config: RunConfig) -> None:
    """Refuse what contradicts itself; for every command."""
    _check_model_path(config)
    _check_tasks(config)
    _check_own_data(config)
    _check_objective(config)
    _check_signals(config)
    _check_contexts(config)
    _check_builders(config)
    _check_rollout(config)
    _check_adapter(config)
    _check_evaluation(config)


def check_training(config: RunConfig, *, resume: str | bool = False) -> None:
    """Refuse what only training minds: no data, and an `output_dir` that cannot be written to or holds another run."""
    if config.data.train is None:
        raise ConfigError(f"data.train is missing. Give a task ({', '.join(TASKS)}) or {{path: train.jsonl}}.")
    try:
        TrainingArguments(**{**config.eval.strategy, **config.training})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training: {' '.join(str(error).split())}") from None
    # Another process of the same launch may already write into the folder; the first one speaks for all.
    if int(os.environ.get("RANK", "0")) == 0:
        _check_output_dir(Path(config.training["output_dir"]), resume or config.training.get("resume_from_checkpoint"))


def _check_model_path(config: RunConfig) -> None:
    model = config.model
    path = Path(model.name_or_path)
    where = f"model.name_or_path: {model.name_or_path!r}"
    if path.is_dir():
        needed = model.gguf_file or "config.json"
        if not (path / needed).is_file():
            raise ConfigError(
                f"{where} is a folder without {needed}, so it holds no model. Give the folder that has it."
            )
    elif path.exists():
        raise ConfigError(f"{where} is a file. Give the folder of the model; a GGUF file goes into model.gguf_file.")
    elif not HUB_ID.fullmatch(model.name_or_path) or model.name_or_path.startswith("."):
        raise ConfigError(
            f"{where} is no folder here (working directory {Path.cwd()}) and cannot be a hub id. "
            "Allowed: an existing folder, or owner/name."
        )


def _check_tasks(config: RunConfig) -> None:
    data = config.data
    named = [("data.train", data.train), ("data.eval", data.eval)]
    named += [(f"eval.tasks[{position}]", name) for position, name in enumerate(config.eval.tasks or ())]
    for where, given in named:
        name = given.task if isinstance(given, DataSource) else given
        if name is None:
            continue
        if name not in TASKS:
            own_data = "" if where.startswith("eval") else ", or {path: train.jsonl} for data of your own"
            raise ConfigError(
                f"{where}: there is no task {name!r}.{suggestion(name, TASKS)} Allowed: {', '.join(TASKS)}{own_data}."
            )
        if isinstance(given, DataSource):
            _check_task_rows(where, name, given)
        task = TASKS[name]
        if where == "data.train" and issubclass(task, Benchmark) and task.hub_train is None:
            raise ConfigError(evaluation_only(name))
        if issubclass(task, CodeTask) and not data.allow_code_execution:
            raise ConfigError(f"{where}: {execution_refused(name)}")


def _check_task_rows(where: str, name: str, source: DataSource) -> None:
    if not issubclass(TASKS[name], Benchmark):
        raise ConfigError(f"{where}: {name} makes its own rows and takes no path. Write {where}: {name}.")
    if source.grader is not None:
        raise ConfigError(f"{where}.grader: {name} has its own grader, got {source.grader!r}. Remove one of the two.")


def _check_own_data(config: RunConfig) -> None:
    data = config.data
    templates = {"prompt_template": data.prompt_template, "privileged_template": data.privileged_template}
    train, evaluation = _own_rows(data.train), _own_rows(data.eval)
    given = [name for name, template in templates.items() if template is not None]
    if given and train is None and evaluation is None:
        raise ConfigError(
            f"data.{given[0]} builds a column of your own data, but data.train and data.eval name none. "
            f"Remove {given[0]} or give {{path: train.jsonl}}."
        )
    try:
        LocalTask(train=train, eval=evaluation, **templates)
    except ValueError as error:
        message = str(error)
        raise ConfigError(message if message.startswith("data.") else f"data: {message}") from None


def _own_rows(given: str | DataSource | None) -> DataSource | None:
    return given if isinstance(given, DataSource) and given.task is None else None


def _check_evaluation(config: RunConfig) -> None:
    strategy = config.training.get("eval_strategy", "no")
    for name in config.eval.strategy:
        if name in config.training:
            raise ConfigError(
                f"eval.every is {config.eval.every} and training.{name} is {config.training[name]}: two answers to "
                "when to evaluate. Keep one."
            )
    if config.data.eval is None and (strategy != "no" or config.eval.every is not None):
        given = f"training.eval_strategy is {strategy}" if strategy != "no" else f"eval.every is {config.eval.every}"
        raise ConfigError(f"{given}, but data.eval is missing. Add data.eval, or remove the option.")


def _check_objective(config: RunConfig) -> None:
    losses = [component for component in config.components if isinstance(component, Loss)]
    if config.objective.divergence == "none" and not losses:
        raise ConfigError(
            "objective.divergence is none and no component is a loss, so there is nothing to train on. "
            "Add a loss such as {type: cross_entropy}, or choose a divergence."
        )
    places = enumerate(config.components)
    named = {f"components[{position}] ({component_name(one)})": one for position, one in places}
    try:
        check_clippable(config.objective, named)
        if config.objective.normalize_weights:
            check_weights_known(named, config.contexts.gates)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for position, component in enumerate(config.components):
        name = component_name(component)
        has_reader = any(loss.weighted for loss in losses) and not isinstance(component, DivergenceClip)
        if isinstance(component, Transform) and config.objective.divergence == "none" and not has_reader:
            raise ConfigError(
                f"components[{position}] ({name}) changes the main term, but objective.divergence is none. "
                "Remove the component or choose a divergence."
            )


def _check_signals(config: RunConfig) -> None:
    for position, component in enumerate(config.components):
        where = f"components[{position}] ({component_name(component)})"
        for signal, context, section in (
            (Signal.AUXILIARY_LOGP, "auxiliary", config.contexts.auxiliary),
            (Signal.NEGATIVE_LOGP, "negative", config.contexts.negative),
        ):
            if signal in component.needs.signals and section is None:
                raise ConfigError(
                    f"contexts.{context} is missing, but {where} reads {context}_logp. "
                    f"Add contexts.{context} or drop the component."
                )
        if Signal.SAMPLER_LOGP in component.needs.signals and not _is_all_sampled(config):
            raise ConfigError(
                f"{where} reads sampler_logp, but completions of the data set have no sampler. Set rollout.backend: hf "
                "and rollout.on_policy_fraction: 1.0, or drop the component."
            )


def _check_contexts(config: RunConfig) -> None:
    read = {signal for component in config.components for signal in component.needs.signals.members()}
    for signal, context, section in (
        (Signal.AUXILIARY_LOGP, "auxiliary", config.contexts.auxiliary),
        (Signal.NEGATIVE_LOGP, "negative", config.contexts.negative),
    ):
        if section is not None and signal not in read:
            raise ConfigError(
                f"contexts.{context} builds views that no component reads. Remove it, or add "
                f"{'agreement' if context == 'auxiliary' else 'contrastive'} to components."
            )
    for context, gate in config.contexts.gates.items():
        if gate.signal == "sampler_nll" and not _is_all_sampled(config):
            raise ConfigError(
                f"contexts.{context}.gate.signal: sampler_nll needs a sampler, but completions of the data set have "
                "none. Use student_entropy, or rollout.backend: hf with on_policy_fraction: 1.0."
            )


def _check_builders(config: RunConfig) -> None:
    auxiliary, negative = config.contexts.auxiliary, config.contexts.negative
    for context, section in (("auxiliary", auxiliary), ("negative", negative)):
        where = f"contexts.{context}.type"
        if section is not None and ":" in section.type and not callable(import_object(section.type, where=where)):
            raise ConfigError(f"{where}: {section.type} is not a function. Give one that takes an Example.")
    if auxiliary is not None and auxiliary.select == "retrieval":
        try:
            available_retriever(auxiliary.retriever)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if auxiliary is not None and auxiliary.include_privileged and config.contexts.privileged.style == "message":
        raise ConfigError(
            "contexts.auxiliary.include_privileged shows the demonstration as turns, but contexts.privileged.style is "
            "message. Set style: turns, or remove include_privileged."
        )
    sources = [source for source in map(_own_rows, (config.data.train, config.data.eval)) if source]
    is_verified = negative is not None and negative.type == "verified"
    if is_verified and sources and not any(source.grader for source in sources):
        raise ConfigError(
            "contexts.negative.type: verified needs a grader that confirms that an answer is wrong. Set "
            "data.train.grader, or give wrong answers in the column negative_context (type: column)."
        )


def _is_all_sampled(config: RunConfig) -> bool:
    return config.rollout.backend != "dataset" and config.rollout.on_policy_fraction == 1


def _check_rollout(config: RunConfig) -> None:
    rollout = config.rollout
    if rollout.backend == "dataset" and rollout.on_policy_fraction != 1:
        raise ConfigError(
            f"rollout.on_policy_fraction is {rollout.on_policy_fraction}, but with backend: dataset nobody "
            "samples. Remove it, or set backend: hf to mix."
        )
    if rollout.backend == "dataset" and rollout.num_generations > 1:
        raise ConfigError(
            f"rollout.num_generations is {rollout.num_generations}, but with backend: dataset each row has one "
            "completion. Remove it, or set backend: hf."
        )
    if rollout.num_loss_tokens_to_skip >= rollout.max_completion_length:
        raise ConfigError(
            f"rollout.num_loss_tokens_to_skip ({rollout.num_loss_tokens_to_skip}) leaves no token of "
            f"max_completion_length ({rollout.max_completion_length}). Make it smaller."
        )


def _check_adapter(config: RunConfig) -> None:
    if config.peft is None:
        return
    if config.peft.get("r", 1) < 1:
        raise ConfigError(f"peft.r must be at least 1, got {config.peft['r']}. To train all weights, leave peft out.")
    if _adapts_head(config.peft) and isinstance(config.teacher, EMATeacher):
        raise ConfigError(
            "teacher: 'ema' with LoRA on lm_head would need two heads at once. "
            "Remove lm_head from peft.target_modules or use kind: base."
        )


def _adapts_head(peft: dict[str, Any]) -> bool:
    targets = peft.get("target_modules")
    if isinstance(targets, str):
        # peft takes text as a pattern over module names; the word `all-linear` is not one and leaves the head out.
        try:
            return re.fullmatch(targets, "lm_head") is not None
        except re.error as error:
            raise ConfigError(
                f"peft.target_modules: {targets!r} is not a pattern ({error}). Allowed: names, a pattern, all-linear."
            ) from None
    return any(name.rsplit(".", 1)[-1] == "lm_head" for name in targets or ())


def _check_output_dir(folder: Path, resume: str | bool | None) -> None:
    if isinstance(resume, str) and not Path(resume).is_dir():
        raise ConfigError(f"resume: there is no folder {resume!r}. {_checkpoints_text(folder)}")
    if resume is True and not _checkpoints(folder):
        raise ConfigError(f"resume: {_checkpoints_text(folder)} Start without --resume.")
    where = f"training.output_dir: {str(folder)!r}"
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{where} cannot be created, {nearest} is a file. Choose another.")
    if not resume and nearest == folder and any(folder.iterdir()):
        raise ConfigError(
            f"{where} is not empty. Resume with --resume, choose another output_dir, or remove the folder."
        )
    try:
        # Made and removed again: permission bits do not tell for root, and on read-only mounts.
        with tempfile.TemporaryDirectory(dir=nearest):
            pass
    except OSError as error:
        raise ConfigError(f"{where} cannot be written to ({error.strerror} in {nearest}). Choose another.") from None


def _checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*")) if folder.is_dir() else []


def _checkpoints_text(folder: Path) -> str:
    names = _checkpoints(folder)
    return f"Checkpoints in {folder}: {', '.join(names)}." if names else f"There is no checkpoint in {folder}."
