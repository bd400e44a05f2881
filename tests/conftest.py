"""Settings of every test (shapes are checked, nothing reaches a network, one thread) and the tiny fixtures."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_datasets_cache = tempfile.TemporaryDirectory(prefix="unisd-tests-")
_contexts_cache = tempfile.TemporaryDirectory(prefix="unisd-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_CACHE"] = _datasets_cache.name
os.environ["UNISD_CACHE"] = _contexts_cache.name
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from jaxtyping import install_import_hook
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import build_tiny_model, build_tiny_tokenizer

# Before any test imports unisd: from here on every annotation of the package is checked when it is called. The tower
# lets an int stand for a float, as every type checker does.
install_import_hook("unisd", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported stays; without this the Trainer's collection of garbage takes half a second per run."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, ChatML, `<|im_end|>` ends a turn."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., LlamaForCausalLM]:
    """Builds a new tiny Llama per call: `tiny_model(seed=1)`; see `build_tiny_model` for the other keywords."""

    def build(**keywords: Any) -> LlamaForCausalLM:
        return build_tiny_model(tiny_tokenizer, **keywords)

    return build


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_model: Callable[..., LlamaForCausalLM],
) -> Path:
    """A folder to give as `model.name_or_path`: the tiny model of seed 0 and its tokenizer. Do not write into it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
