"""The results file: what is written comes back, and what is not a results file says so."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from unisd.evaluate.results import (
    SCHEMA_VERSION,
    Drift,
    Generation,
    Item,
    ModelFacts,
    PromptDrift,
    Results,
    Retention,
    TaskMeasurement,
    TeacherCeiling,
    TextPerplexity,
)
from unisd.evaluate.table import results_text

DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")


def item(key: str, correct: bool) -> Item:
    return Item(key, correct, True, 3, False, f"answer {key} é", "" if correct else "wrong", True, 2)


def measurement(verdicts: dict[str, bool]) -> TaskMeasurement:
    n = len(verdicts)
    return TaskMeasurement(
        name="cmd",
        num_items=n,
        num_dropped=1,
        accuracy=sum(verdicts.values()) / n,
        accuracy_interval=(0.15, 0.85),
        well_formed_share=0.75,
        mean_num_tokens=3.0,
        truncated_share=0.0,
        gold_perplexity=1.5,
        privileged_overlap=0.25,
        teacher=TeacherCeiling(n, 1.0, (0.5, 1.0)),
        pass_at_k={1: 0.5, 4: 0.75},
        items=tuple(item(key, correct) for key, correct in verdicts.items()),
    )


@pytest.fixture
def results() -> Results:
    drift = Drift(num_tokens=6, jsd=0.125, base_logp=-1.5, tuned_logp=None)
    return Results(
        schema_version=SCHEMA_VERSION,
        created="2026-01-01T00:00:00+00:00",
        model=ModelFacts("a/b", "runs/x", "a/b with the adapter runs/x", "float32", "cpu"),
        config_hash="0123",
        seed=7,
        limit=None,
        versions={"unisd": "0"},
        git_hash=None,
        generation=Generation(8, 4, 1.0, 100, 200, {}, {}, {"style": "turns"}, 4, 0.7, 1.0, 0, None),
        tasks=(measurement({"a": True, "b": False}),),
        general_text=TextPerplexity("text.txt", 600, 512, 20.25, 19.5),
        retention=Retention("a/b", (PromptDrift("cmd", 2, drift, drift),)),
        harness={"arc_easy": {"acc,none": 0.5}},
    )


def test_what_is_saved_comes_back_equal(results, tmp_path):
    path = tmp_path / "deep" / "results.json"
    results.save(path)
    assert Results.load(path) == results
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    assert json.loads(path.read_text("utf-8"))["tasks"][0]["pass_at_k"] == {"1": 0.5, "4": 0.75}


def test_results_that_cannot_be_written_leave_the_old_file(results, tmp_path):
    path = tmp_path / "results.json"
    results.save(path)
    unsaveable = replace(results, general_text=replace(results.general_text, perplexity=float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        unsaveable.save(path)
    assert Results.load(path) == results
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"line \d+: not JSON .* cut off or was edited"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 99'), "schema_version is 99, but .* 1"),
        (lambda text: "[]", "schema_version is None"),
        (
            lambda text: text.replace('"correct": true', '"corect": true'),
            r"tasks\.0\.items\.0\.correct: Field required",
        ),
        (lambda text: text.replace('"correct": true', '"correct": "perhaps"'), r"tasks\.0\.items\.0\.correct"),
    ],
)
def test_a_damaged_file_says_where(results, tmp_path, change, message):
    path = tmp_path / "results.json"
    results.save(path)
    path.write_text(change(path.read_text("utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"results\.json.*{message}"):
        Results.load(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ValueError, match="none.json: cannot be read"):
        Results.load(tmp_path / "none.json")


def test_items_are_paired_by_id_and_not_by_place():
    first = measurement({"a": True, "b": True, "c": True, "d": False})
    second = measurement({"d": True, "c": False, "b": False, "a": True})
    assert first.discordant(second) == (2, 1)
    # 2 : 1 -> 2 * (1 + 3) / 8
    assert first.mcnemar(second) == 1.0
    with pytest.raises(ValueError, match="3 are only in the first and 0 only in the second"):
        first.discordant(measurement({"a": True}))


def test_a_task_that_was_not_measured_is_named(results):
    assert results.task("cmd").num_items == 2
    with pytest.raises(ValueError, match="no task 'cmdd'. Tasks: cmd"):
        results.task("cmdd")


def test_the_table_shows_everything_that_was_measured(results):
    lines = results_text(results).splitlines()
    assert lines[0] == "a/b with the adapter runs/x; greedy, at most 8 tokens, float32 on cpu"
    row = "cmd   2  50.0 % [15.0, 85.0]  100.0 % [50.0, 100.0]  75 %      3.0     0 %      1.50      25 %"
    assert lines[3] == row
    assert "cmd: 1 rows over the prompt budget" in lines
    assert "cmd: pass@1 50.0 %  pass@4 75.0 %" in lines
    assert "text.txt: perplexity 20.25, base 19.50 (600 tokens in windows of 512)" in lines
    assert lines[-3].split() == ["cmd", "2", "the", "base", "6", "0.1250", "-1.5000", "-"]
    assert lines[-1] == "lm-eval, arc_easy: acc,none 0.5"


SCHEMA = (Results, ModelFacts, Generation, TaskMeasurement, TeacherCeiling, Item, TextPerplexity, Retention)


@pytest.mark.parametrize("part", [*SCHEMA, PromptDrift, Drift], ids=lambda part: part.__name__)
def test_every_field_of_the_file_is_in_the_docs(part):
    assert [field.name for field in fields(part) if f"`{field.name}`" not in DOCS] == []


def test_the_docs_name_the_version_that_is_written():
    assert f"`schema_version` (now {SCHEMA_VERSION})" in DOCS
