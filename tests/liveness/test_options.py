"""Every option does something: two of its values give two runs that can be told apart from outside."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest

from tests.liveness.cases import CASES
from tests.liveness.scene import write_gguf, write_scene
from unisd.config.fields import option_names
from unisd.config.schema import DataSection, EvalSection, ModelSection, RunConfig
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.negative import NegativeContexts
from unisd.objective import COMPONENTS
from unisd.objective.divergence import Divergence
from unisd.options import Gate, PromptOptions, RolloutOptions
from unisd.tasks.source import DataSource
from unisd.teacher import TEACHERS

SCHEMAS = (
    AuxiliaryContexts,
    DataSection,
    DataSource,
    Demonstration,
    Divergence,
    EvalSection,
    Gate,
    ModelSection,
    NegativeContexts,
    PromptOptions,
    RolloutOptions,
    RunConfig,
    *TEACHERS.values(),
    *COMPONENTS.values(),
)
SECTIONS = {"contexts", "data", "eval", "model", "objective", "rollout"}
"""Fields of `RunConfig` whose own fields are options."""
NEEDS_PACKAGE = {
    "AuxiliaryContexts.retriever": "sentence_transformers",
    "AuxiliaryContexts.select": "bm25s",
    "ModelSection.gguf_file": "gguf",
}


def options() -> list[str]:
    """`Class.field` of all of them; a section that takes over another's has them once."""
    found = {f"{schema.__name__}.{name}" for schema in SCHEMAS for name in option_names(schema)}
    found -= {f"DataSection.{name}" for name in option_names(PromptOptions)}
    return sorted(found - {f"RunConfig.{name}" for name in SECTIONS})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("liveness")
    write_scene(folder)
    if importlib.util.find_spec("gguf"):
        write_gguf(folder)
    return folder


@pytest.mark.parametrize("name", options())
def test_the_option_does_something(name, scene, tmp_path, monkeypatch):
    assert name in CASES, f"{name} is new: give it two values in tests/liveness/cases.py, and say where they differ"
    case = CASES[name]
    assert name.split(".")[1] in f"{case.option} {case.first} {case.second}"
    if name in NEEDS_PACKAGE:
        pytest.importorskip(NEEDS_PACKAGE[name])
    monkeypatch.chdir(scene)
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(scene / "hub"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(scene / "code"))
    # Copied, because an override such as `components.0.floor` writes into the list that another one gave.
    first, second = (
        case.observe(
            {"training.output_dir": str(tmp_path / str(number)), **copy.deepcopy(case.shared), case.option: value}
        )
        for number, value in enumerate((case.first, case.second))
    )
    assert first != second


def test_no_case_is_left_of_an_option_that_is_gone():
    assert [name for name in CASES if name not in options()] == []
