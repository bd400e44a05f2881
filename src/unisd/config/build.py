"""The checks that need torch, transformers and peft in memory: sections become the objects they configure."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig
from transformers import TrainingArguments

from unisd.config.check import check_combinations
from unisd.config.errors import ConfigError, shown, suggestion
from unisd.config.fields import build, check_keys, coerce, coerce_fields, option_names
from unisd.config.import_path import import_object
from unisd.config.schema import SECTIONS_WITHOUT_TORCH, ContextsSection, DataSection, RunConfig
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.negative import NegativeContexts
from unisd.objective import COMPONENTS
from unisd.objective.clip import default_components
from unisd.objective.divergence import Divergence
from unisd.tasks.source import DataSource
from unisd.teacher import TEACHERS, Teacher
from unisd.types import Loss, Transform

logger = logging.getLogger(__name__)

FILLED_IN_BY_PEFT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "runtime_config"}
)
"""Fields of `LoraConfig` that are bookkeeping; setting them changes nothing, so they are not options."""


def build_config(document: Mapping[str, Any]) -> RunConfig:
    """The run that a document of `read_config` describes, checked as far as is possible without a model."""
    objective = build(Divergence, document["objective"], "objective")
    entries = document.get("components")
    config = RunConfig(
        model=document["model"],
        peft=_peft(document.get("peft")),
        data=build(DataSection, document["data"], "data", names={"DataSource": DataSource}),
        contexts=_contexts(document["contexts"]),
        teacher=_teacher(document["teacher"]),
        objective=objective,
        components=tuple(default_components(objective)) if entries is None else _components(entries),
        rollout=document["rollout"],
        training=_training(document["training"]),
        eval=document["eval"],
    )
    check_combinations(config)
    return config


def _contexts(given: Mapping[str, Any]) -> ContextsSection:
    auxiliary, negative = given.get("auxiliary"), given.get("negative")
    return ContextsSection(
        privileged=build(Demonstration, given.get("privileged"), "contexts.privileged"),
        auxiliary=None if auxiliary is None else build(AuxiliaryContexts, auxiliary, "contexts.auxiliary"),
        negative=None if negative is None else build(NegativeContexts, negative, "contexts.negative"),
    )


def _teacher(given: Mapping[str, Any]) -> Teacher:
    options = dict(given)
    kind = options.pop("kind", "base")
    if kind not in TEACHERS:
        raise ConfigError(
            f"teacher.kind must be one of {', '.join(TEACHERS)}, got {shown(kind)}.{suggestion(str(kind), TEACHERS)}"
        )
    others = {f"kind: {other}": option_names(teacher) for other, teacher in TEACHERS.items() if other != kind}
    schema = TEACHERS[kind]
    check_keys(options, ["kind", *option_names(schema)], where="teacher", of=f"kind: {kind}", others=others)
    return build(schema, options, "teacher")


def _components(entries: Sequence[Mapping[str, Any]]) -> tuple[Loss | Transform, ...]:
    built = []
    for position, entry in enumerate(entries):
        where = f"components[{position}]"
        options = dict(entry)
        name = options.pop("type")
        schema = _component_class(name, where)
        check_keys(options, option_names(schema), where=where, of=str(name))
        built.append(build(schema, options, where, of=str(name)))
    return tuple(built)


def _component_class(name: object, where: str) -> type[Loss] | type[Transform]:
    if not isinstance(name, str):
        raise ConfigError(f"{where}.type must be text, got {shown(name)}. {_component_names()}")
    if ":" not in name:
        if name not in COMPONENTS:
            raise ConfigError(
                f"{where}.type: there is no component {name!r}.{suggestion(name, COMPONENTS)} {_component_names()}"
            )
        return COMPONENTS[name]
    component = import_object(name, where=f"{where}.type")
    if not (isinstance(component, type) and issubclass(component, Loss | Transform)):
        raise ConfigError(
            f"{where}.type: {name} is not a component: it must be a class that derives from unisd.types.Loss or "
            f"unisd.types.Transform, got {shown(component)}."
        )
    is_frozen = "__dataclass_params__" in vars(component) and vars(component)["__dataclass_params__"].frozen
    if not is_frozen:
        raise ConfigError(
            f"{where}.type: {name} is not a frozen dataclass. Put @dataclass(frozen=True) above the class."
        )
    if not hasattr(component, "needs"):
        raise ConfigError(
            f"{where}.type: {name} does not say what it needs. Add "
            "`needs: ClassVar[Need] = Need.STUDENT_LOGP`, or whatever it reads from the scores."
        )
    return component


def _component_names() -> str:
    return f"Allowed: {', '.join(COMPONENTS)}, or the import path pkg.module:Class of your own."


def _training(given: Mapping[str, Any]) -> dict[str, Any]:
    options = option_names(TrainingArguments)
    values = dict(given)
    if "warmup_ratio" in values:
        values["warmup_steps"] = _warmup_share(values)
        del values["warmup_ratio"]
    check_keys(values, options, where="training", of="transformers.TrainingArguments", others=_sections())
    return coerce_fields(TrainingArguments, values, "training")


def _warmup_share(values: Mapping[str, Any]) -> float:
    share = coerce(float, values["warmup_ratio"], "training.warmup_ratio")
    if "warmup_steps" in values:
        raise ConfigError(
            "training: warmup_steps and warmup_ratio are both given. Keep warmup_steps; below 1 it is a share."
        )
    if not 0 <= share < 1:
        raise ConfigError(
            f"training.warmup_ratio must lie in [0, 1), got {share}. For a number of steps set warmup_steps."
        )
    logger.warning(
        "training.warmup_ratio is called warmup_steps since transformers 5, where a number below 1 is a share of all "
        "steps. Using warmup_steps: %s.",
        share,
    )
    return share


def _peft(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    options = [name for name in option_names(LoraConfig) if name not in FILLED_IN_BY_PEFT]
    check_keys(given, options, where="peft", of="peft.LoraConfig", others=_sections())
    # Its annotation spells the family `pissa_niter_<n>` as one literal, which no value equals.
    values = coerce_fields(LoraConfig, given, "peft", replaced_hints={"init_lora_weights": bool | str})
    try:
        LoraConfig(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"peft: {error}") from None
    return values


def _sections() -> dict[str, list[str]]:
    sections = {f"section {name}": option_names(schema) for name, schema in SECTIONS_WITHOUT_TORCH.items()}
    objective = [field.name for field in dataclasses.fields(Divergence)]
    return {**sections, "section objective": objective}
