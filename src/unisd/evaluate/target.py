"""What `unisd eval` is pointed at: a configuration, a run, a checkpoint, an adapter, a model; and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from unisd.args import SelfDistillConfig
from unisd.config.document import read_document, with_overrides
from unisd.config.dump import CONFIG_FILE
from unisd.config.load import config_of
from unisd.config.schema import RunConfig
from unisd.loading import check_vocabulary, load_adapter, load_tokenizer
from unisd.objects import arguments_of, model_of, tokenizer_of

ADAPTER_FILE = "adapter_config.json"
"""Makes a folder an adapter."""
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave the weights under the adapter as they are; those of PiSSA do not."""
_HOW_TO_LOAD = ("dtype", "attn_implementation", "trust_remote_code")
"""Options of `model` that a base takes over from the model it is compared with."""
_OF_TRAINING = ("output_dir", "seed", "use_cpu")
"""What an evaluation takes from `training`; the rest may ask for a machine that is not this one."""


@dataclass(frozen=True)
class Target:
    """A model to evaluate, and the configuration it is evaluated under."""

    name: str
    """As it was given."""
    document: dict[Any, Any]
    """The sections of its configuration; a lone `model` where it has none."""
    overrides: Sequence[str] = ()
    adapter: str | None = None
    """Folder of the adapter that goes on `model`."""
    base_document: dict[Any, Any] | None = field(default=None, repr=False)
    """The sections with the model that training started from; `None` where that is not known."""

    @cached_property
    def config(self) -> RunConfig:
        """The configuration, checked."""
        return config_of(self.document, self.overrides, source=self.name)

    @cached_property
    def options(self) -> SelfDistillConfig:
        """Prompt and rollout options, seed and device."""
        training = {name: value for name, value in self.config.training.items() if name in _OF_TRAINING}
        silent = {**training, "report_to": "none"}
        return arguments_of(replace(self.config, training=silent, eval=replace(self.config.eval, every=None)))

    def with_evaluation(self, source: Any) -> RunConfig:
        """The configuration with `data.eval` as given, checked."""
        document = with_overrides(self.document, {"data.eval": source})
        return config_of(document, self.overrides, source=self.name)


def find_target(given: str, overrides: Sequence[str] = ()) -> Target:
    """What `given` is; nothing is loaded.

    A YAML file stands for the model a run of it would start from. A folder may be the output of `unisd train` or one
    of its checkpoints (both bring their configuration along), an adapter, or a model. The rest is a hub id.
    """
    path = Path(given)
    if path.suffix in (".yaml", ".yml"):
        return Target(given, read_document(path), overrides)
    if not path.is_dir():
        return Target(given, {"model": {"name_or_path": given}}, overrides)
    run = _run_document(path)
    if (path / ADAPTER_FILE).is_file():
        document = run or {"model": {"name_or_path": _base_name(path)}}
        return Target(given, document, overrides, adapter=given, base_document=document)
    if run is None:
        return Target(given, {"model": {"name_or_path": given}}, overrides)
    if not (path / "config.json").is_file():
        raise ValueError(f"{given}: the run has left no model. {_checkpoint_hint(path)}")
    model = {**run["model"], "name_or_path": given, "revision": None, "gguf_file": None}
    return Target(given, {**run, "model": model}, overrides, base_document=run)


def base_of(target: Target, given: str | Literal[True]) -> Target | None:
    """The base model to compare with; `None` for the target itself without its adapter.

    `True` asks for the model that training started from.
    """
    if given is not True:
        base = find_target(given)
        if base.document.keys() == {"model"}:
            # Loaded as the target is, so that what differs is the weights.
            own = target.config
            model = {**{name: getattr(own.model, name) for name in _HOW_TO_LOAD}, **base.document["model"]}
            training = {name: value for name, value in own.training.items() if name == "use_cpu"}
            base = replace(base, document={"model": model, "training": training})
        # Asked for now, so that a fault in it comes before any weights.
        assert base.config
        return base
    if target.base_document is None:
        raise ValueError(
            f"{target.name}: retention compares with the model before training, which is not known here. "
            "Name it: --retention owner/name, or a folder."
        )
    if target.adapter is not None and not moves_the_base(_adapter_facts(Path(target.adapter))):
        return None
    base = Target(str(target.base_document["model"]["name_or_path"]), target.base_document, target.overrides)
    assert base.config
    return base


def tokenizer_for(target: Target) -> PreTrainedTokenizerBase:
    """The tokenizer: an adapter's own, else the model's."""
    if target.adapter is not None and (Path(target.adapter) / "tokenizer_config.json").is_file():
        return load_tokenizer(target.adapter)
    return tokenizer_of(target.config)


def load_target(target: Target) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model, in evaluation mode on its device, adapters beside their base and not merged; and the tokenizer."""
    model: Any = model_of(target.config)
    if target.adapter is not None:
        model = load_adapter(model, target.adapter)
    tokenizer = tokenizer_for(target)
    check_vocabulary(model, tokenizer)
    return model.to(target.options.device).eval(), tokenizer


def _run_document(path: Path) -> dict[Any, Any] | None:
    is_checkpoint = path.resolve().name.startswith(PREFIX_CHECKPOINT_DIR)
    for folder in (path, path.resolve().parent) if is_checkpoint else (path,):
        if (folder / CONFIG_FILE).is_file():
            return read_document(folder / CONFIG_FILE)
    return None


def _adapter_facts(folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as JSON ({error}). Save the adapter again.") from None


def _base_name(folder: Path) -> str:
    name = _adapter_facts(folder).get("base_model_name_or_path")
    if not name:
        raise ValueError(
            f"{folder / ADAPTER_FILE}: base_model_name_or_path is missing, so the model under the adapter is not "
            "known. Write it into the file."
        )
    return str(name)


def moves_the_base(adapter: Mapping[str, Any]) -> bool:
    """Whether the model without this adapter (its PEFT options) may be another one than before training."""
    # Biases that were trained beside the adapter are the base's own, and stay when it is switched off.
    return adapter.get("bias", "none") != "none" or adapter.get("init_lora_weights", True) not in _PLAIN_STARTS


def _checkpoint_hint(path: Path) -> str:
    last = get_last_checkpoint(str(path))
    return f"Evaluate its last checkpoint: {last}" if last else "Train to the end, or save checkpoints on the way."
