"""From a study to its runs: every configuration checked, every run with a name that changes with its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unisd.config.check import check_training
from unisd.config.document import read_document, with_overrides
from unisd.config.dump import plain, resolved_yaml
from unisd.config.errors import ConfigError, shown
from unisd.config.load import config_of
from unisd.config.schema import ContextsSection, RunConfig
from unisd.evaluate.likelihood import read_text
from unisd.evaluate.measure import held_out_examples, held_out_views
from unisd.objective.divergence import Divergence
from unisd.objects import eval_tasks, tokenizer_of, train_examples
from unisd.planning import passes_of
from unisd.study.schema import BASE, Evaluation, Study, Variant, check_options, evaluation_fields
from unisd.tasks.source import DataSource
from unisd.teacher import BaseTeacher

TRAINING_FOLDER = "train"
"""Inside the folder of a run: what `unisd train` leaves there."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*")
"""Of a folder that holds a model."""
_MODEL_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES, "*.safetensors", "*model*.bin", "*.gguf")
_NUM_BLOCKS, _BLOCK_BYTES = 256, 65_536


@dataclass(frozen=True)
class Run:
    """One training with its evaluation, or the evaluation of the model before training."""

    id: str
    """Name of its folder: variant, seed, and a hash of all settings."""
    variant: str
    """`base` for the model before training."""
    seed: int | None
    """Null for the base."""
    config: RunConfig
    evaluation: Evaluation


@dataclass(frozen=True)
class Grid:
    """The runs of a study, the base first, then seed by seed, so that a study cut short has whole rows of few seeds."""

    folder: Path
    base: Run
    runs: tuple[Run, ...]

    def __iter__(self) -> Iterator[Run]:
        return iter((self.base, *self.runs))

    def folder_of(self, run: Run) -> Path:
        """Where a run keeps everything."""
        return self.folder / run.id

    def of_variant(self, name: str) -> dict[int, Run]:
        """The runs of a variant by seed."""
        return {run.seed: run for run in self.runs if run.variant == name and run.seed is not None}


def grid_of(study: Study, path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """All runs of a study file; `overrides` are options of every run, over all that the file sets.

    Everything that can be known before the first run starts is checked here: the options, that the data can be read,
    the tokenizer, and that all rows answer the same held-out prompts of the same model.
    """
    check_options(overrides)
    folder = Path(study.folder)
    configs = {variant.name: _config(study, variant, Path(path), overrides) for variant in study.variants}
    with_teacher = [name for name, config in configs.items() if passes_of(config).has_teacher]
    base_config = configs[study.base or next(iter(with_teacher), study.variants[0].name)]
    _check_comparable(study, configs, base_config)
    _check_loadable(configs, base_config, folder, study.evaluation)
    evaluation = study.evaluation
    base = Run(f"{BASE}-{_hash(_before_training(base_config), evaluation)}", BASE, None, base_config, evaluation)
    num_rounds = max(len(study.seeds_of(variant)) for variant in study.variants)
    runs = tuple(
        _run(variant, study.seeds_of(variant)[index], configs[variant.name], folder, evaluation)
        for index in range(num_rounds)
        for variant in study.variants
        if index < len(study.seeds_of(variant))
    )
    return Grid(folder, base, runs)


def _config(study: Study, variant: Variant, path: Path, overrides: Sequence[str]) -> RunConfig:
    file = path.parent / variant.config
    try:
        document = with_overrides(read_document(file), {**study.set, **variant.set})
        config = config_of(document, overrides, source=file)
    except ConfigError as error:
        raise ConfigError(f"{variant.name}: {error}") from None
    if not eval_tasks(config):
        raise ConfigError(
            f"{variant.name}: there is nothing to grade. Set eval.tasks or data.eval under `set` of the study."
        )
    return config


def _run(variant: Variant, seed: int, config: RunConfig, folder: Path, evaluation: Evaluation) -> Run:
    training = {key: value for key, value in config.training.items() if key != "output_dir"}
    settings = replace(config, training={**training, "seed": seed})
    run_id = f"{variant.name}-seed{seed}-{_hash(settings, evaluation)}"
    training = {**settings.training, "output_dir": str(folder / run_id / TRAINING_FOLDER)}
    return Run(run_id, variant.name, seed, replace(settings, training=training), evaluation)


def _hash(config: RunConfig, evaluation: Evaluation) -> str:
    """Changes with every option and the content of local data and models, not with where models are kept."""
    sources = [source for source in (config.data.train, config.data.eval) if isinstance(source, DataSource)]
    files = [path for path in (*(source.path for source in sources), evaluation.general_text) if path]
    model = replace(config.model, name_or_path=_model_identity(config.model.name_or_path))
    parts = {
        "config": resolved_yaml(replace(config, model=model)),
        "evaluation": evaluation_fields(evaluation),
        "data": {file: _digest(Path(file)) for file in files},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _model_identity(name_or_path: str) -> str:
    """A hub id as it is; of a folder the content of its configuration, its tokenizer and its weights."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return name_or_path
    files = {
        file.name: _sampled_digest(file) for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()
    }
    return f"folder {hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]}"


def _sampled_digest(path: Path) -> str:
    """Of a file's size and of blocks spread over it, which is all of a small one: trained weights differ everywhere."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_NUM_BLOCKS):
            file.seek(number * max(0, size - _BLOCK_BYTES) // (_NUM_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
            if size <= _BLOCK_BYTES:
                break
    return digest.hexdigest()


def _digest(path: Path) -> str | None:
    """Of a file's content, or of all files in a folder with their names; of anything else null."""
    path = path.expanduser()
    if path.is_dir():
        files = {str(file.relative_to(path)): _digest(file) for file in sorted(path.rglob("*")) if file.is_file()}
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _before_training(config: RunConfig) -> RunConfig:
    """The settings that the model before training is measured under; the others do not change its results."""
    return replace(
        config,
        peft=None,
        data=replace(config.data, train=None, limit=None),
        contexts=ContextsSection(privileged=config.contexts.privileged),
        teacher=BaseTeacher(),
        objective=Divergence(),
        components=(),
        training={},
    )


def _held_out(config: RunConfig) -> dict[str, Any]:
    """What has to be equal for two rows to answer the same prompts in the same way."""
    data, rollout = config.data, config.rollout
    options = {
        "model": config.model,
        "data.eval": data.eval,
        "data.prompt_template": data.prompt_template,
        "data.max_prompt_length": data.max_prompt_length,
        "data.student_chat_kwargs": data.student_chat_kwargs,
        "eval.tasks": config.eval.tasks,
        "eval.limit": config.eval.limit,
        "rollout.max_completion_length": rollout.max_completion_length,
        "rollout.repetition_penalty": rollout.repetition_penalty,
    }
    return {name: plain(value) for name, value in options.items()}


def _check_comparable(study: Study, configs: dict[str, RunConfig], base: RunConfig) -> None:
    expected = _held_out(base)
    for name, config in configs.items():
        for option, value in _held_out(config).items():
            if value != expected[option]:
                raise ConfigError(
                    f"{name}: {option} is {shown(value)}, but the base is measured with {shown(expected[option])}. The "
                    f"rows of a study answer the same prompts of the same model: put {option} under `set` of the "
                    "study, or make it two studies."
                )
    for variant in study.variants:
        baseline = study.baseline_of(variant)
        theirs = [seed for other in study.variants if other.name == baseline for seed in study.seeds_of(other)]
        shared = set(study.seeds_of(variant)) & set(theirs)
        if baseline is not None and not shared:
            raise ConfigError(f"{variant.name}: shares no seed with its baseline {baseline}, so nothing can be paired.")


def _check_loadable(configs: dict[str, RunConfig], base: RunConfig, folder: Path, evaluation: Evaluation) -> None:
    tokenizer = tokenizer_of(base)
    checked: set[str] = set()
    for name, config in configs.items():
        # A folder that never exists: what is written there is the runs' business.
        check_training(replace(config, training={**config.training, "output_dir": str(folder / "unwritten" / name)}))
        data = yaml.safe_dump(plain(config.data))
        if data in checked:
            continue
        checked.add(data)
        try:
            train_examples(config)
            for task in eval_tasks(config):
                held_out_examples(task, config.eval.limit, tokenizer, config.data)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from error
    try:
        for task in eval_tasks(base) if evaluation.teacher else ():
            examples, _ = held_out_examples(task, base.eval.limit, tokenizer, base.data)
            held_out_views(examples, tokenizer, base.data, base.contexts.privileged, is_teacher_asked=True)
    except ValueError as error:
        raise ConfigError(f"evaluation.teacher: {error}") from error
    if evaluation.general_text is not None:
        try:
            read_text(evaluation.general_text)
        except ValueError as error:
            raise ConfigError(f"evaluation.general_text: {error}") from error


def plan_text(study: Study, grid: Grid, states: dict[str, str]) -> str:
    """The runs with their states, and the passes of every variant."""
    lines = [f"the base and {len(grid.runs)} runs in {grid.folder}; compared with {study.baseline}", ""]
    width = max(len(run.id) for run in grid)
    lines += [f"  {run.id.ljust(width)}  {states[run.id]}" for run in grid]
    for variant in study.variants:
        config = next(iter(grid.of_variant(variant.name).values())).config
        seeds = ", ".join(map(str, study.seeds_of(variant)))
        lines += ["", f"{variant.name}: {variant.config}, seeds {seeds}", passes_of(config).text()]
    return "\n".join(lines)
