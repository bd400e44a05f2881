"""The file of a study: which recipes, which seeds, what they are compared with. Torch stays out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unisd.config.document import Overrides, read_document, with_overrides
from unisd.config.errors import ConfigError, shown, suggestion
from unisd.config.fields import build, check_keys, option_names

BASE = "base"
"""Name of the row of the model before training; no variant may have it."""
DECIDED_BY_THE_STUDY = {
    "training.output_dir": "Every run has a folder of its own under the study's `folder`.",
    "training.resume_from_checkpoint": "A run that was cut off starts again.",
    "training.seed": "Give `seeds`, of the study or of a variant.",
}
"""What neither `set` nor the command line may hold, and what to do instead."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Evaluation:
    """Section `evaluation`: what is measured beside accuracy. Tasks and items come from `eval.tasks`, `eval.limit`."""

    teacher: bool = True
    """Also answer the held-out prompts of the base under the teacher's view: the ceiling."""
    retention: bool = False
    """Compare what either model writes with the model before training, by divergence and log-probability."""
    general_text: str | None = None
    """A file of plain text whose perplexity is measured; relative to the working directory."""


@dataclass(frozen=True)
class Variant:
    """One row of the table: a recipe with the options it changes."""

    name: str
    """In the table and in the names of folders."""
    config: str
    """Configuration of the run, relative to the file of the study."""
    set: dict[str, Any] = field(default_factory=dict)
    """Options by dotted path, over those of the file and of the study."""
    seeds: tuple[int, ...] | None = None
    """Values of `training.seed`; left out, those of the study."""
    baseline: str | None = None
    """The variant this one is compared with; left out, that of the study."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == BASE:
            raise ValueError(
                f"name must be letters, digits, '.', '_', '+' or '-', and not {BASE!r}, got {shown(self.name)}."
            )
        _check_seeds(self.seeds)
        check_options(self.set)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid of variants and seeds."""

    folder: str
    """Where the runs and the table go, relative to the working directory; left out `runs/study/<file name>`."""
    variants: tuple[Variant, ...]
    """The rows of the table, in this order."""
    baseline: str
    """The variant that all others are compared with; left out, the first."""
    base: str
    """The variant whose model before training is the row `base`, and whose teacher is the ceiling; left out, the first
    with a teacher."""
    seeds: tuple[int, ...] = (0,)
    """Values of `training.seed` for variants that name none; the same seed means the same batches in every variant."""
    set: dict[str, Any] = field(default_factory=dict)
    """Options by dotted path, over those of every file."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """What is measured beside accuracy."""
    keep_models: bool = False
    """Keep the trained weights and tokenizers; they are deleted after the evaluation otherwise."""

    def __post_init__(self) -> None:
        _check_seeds(self.seeds)
        check_options(self.set)

    def seeds_of(self, variant: Variant) -> tuple[int, ...]:
        """Its own, or those of the study."""
        return self.seeds if variant.seeds is None else variant.seeds

    def baseline_of(self, variant: Variant) -> str | None:
        """What it is compared with; null for a baseline itself."""
        name = variant.baseline or self.baseline
        return None if name == variant.name else name


def load_study(path: str | Path) -> Study:
    """The study of a file, its own options checked; `unisd.study.grid` checks the configurations it names."""
    path = Path(path)
    document = read_document(path)
    check_keys(document, option_names(Study), where=str(path), of="a study")
    given = {"folder": f"runs/study/{path.stem}", **document}
    variants = _variants(given.get("variants"))
    given["variants"] = variants
    names = [variant.name for variant in variants]
    given.setdefault("baseline", names[0])
    given.setdefault("base", "")
    study = build(Study, given, str(path), of="a study")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"variants: the name {twice[0]!r} is given twice. Every row needs a name of its own.")
    _check_named(names, [("baseline", study.baseline), *([("base", study.base)] if study.base else [])])
    _check_named(
        names,
        [
            (f"variants[{position}] ({variant.name}).baseline", variant.baseline)
            for position, variant in enumerate(variants)
            if variant.baseline is not None
        ],
    )
    return study


def _variants(given: object) -> tuple[Variant, ...]:
    if not isinstance(given, list) or not given:
        raise ConfigError(
            f"variants must be a list of rows, got {shown(given)}. "
            "Write variants: [{name: sft, config: sft.yaml}, {name: sdft, config: sdft.yaml}]."
        )
    others = {"the study": option_names(Study)}
    return tuple(
        build(Variant, entry, f"variants[{position}]", of="a variant", others=others)
        for position, entry in enumerate(given)
    )


def _check_named(names: list[str], given: Iterable[tuple[str, str | None]]) -> None:
    for where, name in given:
        if name not in names:
            hint = suggestion(str(name), names)
            raise ConfigError(f"{where}: there is no variant {name!r}.{hint} Variants: {', '.join(names)}.")


def _check_seeds(seeds: tuple[int, ...] | None) -> None:
    if seeds is None:
        return
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different numbers from 0 on, at least one, got {list(seeds)}.")


def check_options(options: Overrides) -> None:
    """Refuse those of `DECIDED_BY_THE_STUDY`, which would be overruled without a word."""
    training = with_overrides({}, options).get("training")
    for key, remedy in DECIDED_BY_THE_STUDY.items():
        if isinstance(training, Mapping) and key.partition(".")[2] in training:
            raise ConfigError(f"{key} is decided by the study. {remedy}")


def evaluation_fields(evaluation: Evaluation) -> dict[str, Any]:
    """As plain values, for files and hashes."""
    return {one.name: getattr(evaluation, one.name) for one in fields(evaluation)}
