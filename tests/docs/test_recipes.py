"""The table of recipes says what the files are, and every file loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unisd.config.load import load_config
from unisd.planning import passes_of

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml") if path.parent.name != "study")
ROW = re.compile(r"^\| \[(?P<file>\S+)\]\((?P<link>\S+)\) \| .+ \| (?P<passes>.+) \| (?P<cost>.+) \|$", re.MULTILINE)
ROWS = {row["file"]: row for row in ROW.finditer((CONFIGS / "README.md").read_text("utf-8"))}
SHARED = ("model", "peft", "training")
"""Sections in which the recipes agree, so that they can be compared."""


def test_the_table_lists_every_file_and_links_to_it():
    assert sorted(ROWS) == FILES
    assert [row["link"] for row in ROWS.values()] == list(ROWS)


@pytest.mark.parametrize("file", FILES)
def test_a_recipe_loads_and_costs_what_the_table_says(file):
    config = load_config(CONFIGS / file)
    named = {"prompt": "student", "privileged": "teacher"}
    passes = passes_of(config).passes
    kinds = [f"{f'{one.count} ' if one.count > 1 else ''}{named.get(one.context, one.context)}" for one in passes]
    number = sum(one.count for one in passes)
    assert ROWS[file]["passes"] == f"{number}: {', '.join(kinds)}"
    is_sampled = config.rollout.backend == "hf"
    rollout = {0.0: "", 0.5: " + half a rollout", 1.0: " + rollout"}
    assert ROWS[file]["cost"] == f"{number}{rollout[config.rollout.on_policy_fraction if is_sampled else 0.0]}"


@pytest.mark.parametrize("file", FILES)
def test_a_recipe_says_what_it_reproduces_and_costs_and_how_it_is_run(file):
    head = "\n".join(re.findall(r"^#(.*)$", (CONFIGS / file).read_text("utf-8"), re.MULTILINE))
    assert re.search(r"Reproduces|published", head)
    assert "Costs" in head
    assert {command for command in ("probe", "plan", "train") if f"unisd {command} configs/{file}" in head} >= {"train"}


def test_recipes_share_what_they_are_not_about():
    configs = {file: load_config(CONFIGS / file) for file in FILES}
    plain = configs["sdft.yaml"]
    for file, config in configs.items():
        assert config.model == plain.model, file
        assert config.peft == plain.peft, file
        differing = {key for key in plain.training if config.training.get(key) != plain.training[key]}
        assert differing <= {"output_dir", *(["learning_rate"] if file == "ssd.yaml" else [])}, file
        assert config.training["output_dir"] == f"runs/{Path(file).stem}"
        assert config.rollout.temperature == plain.rollout.temperature, file
        assert config.objective.temperature == plain.objective.temperature, file
