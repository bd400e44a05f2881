"""The configuration that `unisd init` writes."""

from __future__ import annotations

import re

import pytest

from unisd.config.fields import option_names
from unisd.config.load import load_config
from unisd.config.schema import DataSection, EvalSection, ModelSection, RunConfig
from unisd.config.starter import STARTERS, field_docs, starter_yaml
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.negative import NegativeContexts
from unisd.objective import COMPONENTS, CrossEntropy, DivergenceClip
from unisd.objective.divergence import Divergence
from unisd.options import RolloutOptions
from unisd.teacher import TEACHERS


@pytest.mark.parametrize("task", STARTERS)
def test_the_written_file_loads_without_the_data_being_there(task, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(starter_yaml(task, "run.yaml"))
    config = load_config(path)
    assert config.training["output_dir"] == f"runs/{task}"
    assert config.components[0] == load_config(path, ["components=null"]).components[0]


@pytest.mark.parametrize("task", STARTERS)
def test_an_option_set_from_its_comment_changes_nothing_because_it_is_the_default(task, tmp_path):
    text = starter_yaml(task, "run.yaml")
    path = tmp_path / "run.yaml"
    path.write_text(text)
    as_written = load_config(path)
    # `decay` and `every` of the EMA teacher would contradict the chosen kind.
    path.write_text(re.sub(r"^( *)#(?=\w)(?!decay|every: 10)", r"\1", text, flags=re.MULTILINE))
    assert "\n  top_p: 1.0" in path.read_text()
    assert load_config(path) == as_written


def test_a_component_that_is_commented_out_is_added_by_taking_the_comment_signs_away(tmp_path):
    text = starter_yaml("cmd", "run.yaml")
    block = re.search(r"^  #- type: cross_entropy.*\n(?:  #  .*\n)+", text, flags=re.MULTILINE)
    assert block is not None
    path = tmp_path / "run.yaml"
    path.write_text(text.replace(block[0], re.sub("^  #", "  ", block[0], flags=re.MULTILINE)))
    assert load_config(path).components == (CrossEntropy(), DivergenceClip(ceiling=10.0))


def test_every_option_of_every_section_is_in_the_file_with_its_docstring():
    text = starter_yaml("local", "run.yaml")
    contexts = [Demonstration, AuxiliaryContexts, NegativeContexts]
    schemas = [ModelSection, DataSection, *contexts, Divergence, RolloutOptions, EvalSection]
    for schema in [*schemas, *TEACHERS.values(), *COMPONENTS.values()]:
        docs = field_docs(schema)
        for name in option_names(schema):
            assert f"{name}: " in text
            assert f"# {docs[name]}" in text
    assert [line[:-1] for line in text.splitlines() if line[:1].isalpha()] == option_names(RunConfig)


def test_field_docs_are_the_docstrings_under_the_fields():
    docs = field_docs(DataSection)
    assert next(iter(docs)) == "train"
    assert docs["max_prompt_length"] == "Tokens the student's prompt may have, the generation prompt included."
