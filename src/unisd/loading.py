"""Models and tokenizers from a name or a folder, with the errors a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_utils import get_last_checkpoint


def load_model(name_or_path: str, **options: Any) -> PreTrainedModel:
    """A causal LM; `options` go to `from_pretrained` (`dtype`, `revision`, `gguf_file` ...)."""
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return AutoModelForCausalLM.from_pretrained(name_or_path, **given)
    except OSError as error:
        raise ValueError(_not_found("model", name_or_path, error)) from error


def load_model_config(name_or_path: str, **options: Any) -> PretrainedConfig:
    """The configuration alone, no weights; `options` as for `load_model`."""
    given = {key: value for key, value in options.items() if value is not None}
    try:
        return AutoConfig.from_pretrained(name_or_path, **given)
    except OSError as error:
        raise ValueError(_not_found("model", name_or_path, error)) from error


def load_tokenizer(name_or_path: str, **options: Any) -> PreTrainedTokenizerBase:
    """Its tokenizer; padding falls back to the end-of-sequence token."""
    given = {key: value for key, value in options.items() if value is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **given)
    except OSError as error:
        raise ValueError(_not_found("tokenizer", name_or_path, error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _not_found(what: str, name_or_path: str, error: OSError) -> str:
    reason = str(error).strip().splitlines()[0]
    return (
        f"model.name_or_path: no {what} found under {name_or_path!r} ({reason}). "
        "Give a folder that holds one, or a hub id that this machine can reach or has in its cache."
    )


def load_adapter(model: PreTrainedModel, folder: str) -> PeftModel:
    """The model with a saved adapter beside its weights, frozen and not merged."""
    try:
        return PeftModel.from_pretrained(model, folder)
    # PEFT's words for a file that is missing or broken, and for weights of other shapes.
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder}: the adapter cannot be put on {model.config._name_or_path!r} "
            f"({str(error).strip().splitlines()[0]}). Give the base model it was trained on, for example with "
            "model.name_or_path=..., or save the adapter again."
        ) from error


def with_adapter(model: PreTrainedModel | PeftModel, config: PeftConfig | None) -> PreTrainedModel | PeftModel:
    """The model with a new adapter of `config`, or as it is."""
    if config is None:
        return model
    if isinstance(model, PeftModel):
        raise ValueError(
            "The model already carries an adapter and peft_config asks for another. "
            "Pass peft_config=None to train the one it has, or a model without adapter."
        )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(f"peft: {error}") from error
    assert isinstance(adapted, PeftModel)
    return adapted


def check_vocabulary(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    if len(tokenizer) > rows:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens, the model embeds {rows}. "
            "Call model.resize_token_embeddings(len(tokenizer)), or use the tokenizer that belongs to the model."
        )


def check_trainable(model: torch.nn.Module) -> None:
    """Refuse to train a model whose parameters are all frozen, as those of an adapter are that PEFT has loaded."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "The model has no trainable parameter. Load its adapter with PeftModel.from_pretrained(..., "
            "is_trainable=True), or pass the model without one and a peft_config."
        )


def last_checkpoint(folder: str) -> str:
    """The newest checkpoint in an output folder."""
    found = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    if found is None:
        raise ValueError(
            f"training.output_dir: {folder!r} holds no checkpoint to resume from. "
            "Start without resume, or give the checkpoint's folder."
        )
    return found
