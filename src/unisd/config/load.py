"""`load_config`: YAML file and overrides to a checked `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unisd.config.document import Overrides, read_document, with_overrides
from unisd.config.errors import ConfigError, shown, unknown_option
from unisd.config.fields import as_mapping, build, check_keys, option_names
from unisd.config.schema import DEFAULT_COMPONENTS, SECTIONS_WITHOUT_TORCH, EvalSection, ModelSection, RunConfig
from unisd.options import RolloutOptions


def load_config(path: str | Path, overrides: Overrides = ()) -> RunConfig:
    """The run that the file and the overrides describe, every field checked; loads no tokenizer and no weights."""
    return config_of(read_document(path), overrides, source=path)


def config_of(document: Mapping[Any, Any], overrides: Overrides = (), *, source: str | Path) -> RunConfig:
    """The same from sections that were read already, or never stood in a file; `source` is what errors call them."""
    checked = _checked(document, overrides, source)
    # Torch and transformers come in here and no earlier: a misspelt section is reported at once.
    from unisd.config.build import build_config

    return build_config(checked)


def read_config(path: str | Path, overrides: Overrides = ()) -> dict[str, Any]:
    """The sections after all checks that need neither torch nor transformers; `training.output_dir` filled in."""
    return _checked(read_document(path), overrides, path)


def _checked(given: Mapping[Any, Any], overrides: Overrides, path: str | Path) -> dict[str, Any]:
    document = dict(given)
    if document.get("components") is None and any(str(override).startswith("components.") for override in overrides):
        document["components"] = [dict(entry) for entry in DEFAULT_COMPONENTS]
    document = with_overrides(document, overrides)
    sections = option_names(RunConfig)
    for name in document:
        if name not in sections:
            raise unknown_option(
                name, sections, where=str(path), of="a run", noun="a section", others=_section_options()
            )
    if "model" not in document:
        raise ConfigError(f"{path}: the section model is missing. Add model: {{name_or_path: owner/name}}.")
    for name, schema in SECTIONS_WITHOUT_TORCH.items():
        options = option_names(schema)
        document[name] = as_mapping(document.get(name), name, options)
        check_keys(document[name], options, where=name, others=_section_options(but=name))
    for name, schema in (("model", ModelSection), ("rollout", RolloutOptions), ("eval", EvalSection)):
        document[name] = build(schema, document[name], name)
    for name in ("objective", "teacher", "training"):
        document[name] = _mapping(document.get(name), name)
    if document.get("peft") is not None:
        document["peft"] = _mapping(document["peft"], "peft")
    _check_component_list(document.get("components"))
    if document["training"].get("output_dir") is None:
        document["training"]["output_dir"] = f"runs/{Path(path).stem}"
    return document


def _section_options(but: str | None = None) -> dict[str, list[str]]:
    return {f"section {name}": option_names(schema) for name, schema in SECTIONS_WITHOUT_TORCH.items() if name != but}


def _mapping(given: object, where: str) -> dict[Any, Any]:
    if given is not None and not isinstance(given, dict):
        raise ConfigError(
            f"{where} must be a mapping of options, got {shown(given)}. Write {where}: {{option: value}}."
        )
    return given or {}


def _check_component_list(given: object) -> None:
    if given is None:
        return
    if not isinstance(given, list):
        raise ConfigError(
            f"components must be a list, got {shown(given)}. Write components: [{{type: divergence_clip, ceiling: 10}}]"
            ", or [] for none."
        )
    for position, entry in enumerate(given):
        if not isinstance(entry, dict) or "type" not in entry:
            raise ConfigError(
                f"components[{position}] must be a mapping with a type, got {shown(entry)}. "
                "Write {type: divergence_clip, ceiling: 10}."
            )
