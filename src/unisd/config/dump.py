"""The resolved configuration as YAML."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import yaml

from unisd.config.schema import RunConfig
from unisd.objective import COMPONENTS

CONFIG_FILE = "unisd.yaml"
"""What the resolved configuration is called in the output folder of a run."""
LEFT_OUT_OF_TRAINING = frozenset({"hub_token"})
"""Secrets: the text goes into model cards and results files."""


def resolved_yaml(config: RunConfig) -> str:
    """The whole run with every default written out; loads again to an equal config.

    `training` and `peft` hold what was set, the rest of those is the libraries' own. `training.hub_token` is left out.
    """
    document = {
        "model": plain(config.model),
        "peft": plain(config.peft),
        "data": plain(config.data),
        "contexts": plain(config.contexts),
        "teacher": {"kind": config.teacher.kind, **plain(config.teacher)},
        "objective": plain(config.objective),
        "components": [{"type": component_name(component), **plain(component)} for component in config.components],
        "rollout": plain(config.rollout),
        "training": {key: plain(value) for key, value in config.training.items() if key not in LEFT_OUT_OF_TRAINING},
        "eval": plain(config.eval),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)


def config_hash(config: RunConfig) -> str:
    """Tells settings apart; where this machine keeps the weights is left out."""
    model = dataclasses.replace(config.model, name_or_path="")
    return hashlib.sha256(resolved_yaml(dataclasses.replace(config, model=model)).encode()).hexdigest()[:16]


def component_name(component: object) -> str:
    """Its name in the registry, else its import path: what `type` says in the YAML."""
    for name, registered in COMPONENTS.items():
        if type(component) is registered:
            return name
    return f"{type(component).__module__}:{type(component).__qualname__}"


def plain(value: Any) -> Any:
    """The same value in mappings, lists and scalars, as YAML writes them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(inner) for inner in value)
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value
