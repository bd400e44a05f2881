"""The file of a study and the grid it spans: what is refused, and which settings make another run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.study.studies import write_recipe, write_study
from unisd.config.errors import ConfigError
from unisd.study.grid import Grid, grid_of, plan_text
from unisd.study.schema import load_study

TWO = [{"name": "plain", "config": "recipe.yaml"}, {"name": "other", "config": "recipe.yaml"}]


def test_a_study_is_filled_in(tmp_path):
    study = load_study(write_study(tmp_path, {"variants": TWO}, name="mine.yaml"))
    assert (study.folder, study.baseline, study.seeds, study.keep_models) == ("runs/study/mine", "plain", (0,), False)
    assert [study.baseline_of(variant) for variant in study.variants] == [None, "plain"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": []}, "variants must be a list of rows"),
        ({"variants": None, "varients": TWO}, "'varients' is not an option of a study. Did you mean 'variants'?"),
        ({"baseline": "plane"}, "there is no variant 'plane'. Did you mean 'plain'?"),
        ({"variants": [{**TWO[0], "baseline": "non"}]}, r"variants\[0\] \(plain\).baseline: there is no variant 'non'"),
        ({"variants": [TWO[0], TWO[0]]}, "the name 'plain' is given twice"),
        ({"variants": [{**TWO[0], "name": "base"}]}, "not 'base', got 'base'"),
        ({"variants": [{**TWO[0], "name": "a/b"}]}, "got 'a/b'"),
        ({"variants": [{**TWO[0], "sets": {}}]}, "'sets' is not an option of a variant. Did you mean 'set'?"),
        ({"variants": [{"name": "plain"}]}, r"variants\[0\].config is missing"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"seeds": []}, "seeds must be different numbers"),
        ({"set": {"training.seed": 1}}, "training.seed is decided by the study. Give `seeds`"),
        ({"set": {"training": {"seed": 1, "max_steps": 3}}}, "training.seed is decided by the study. Give `seeds`"),
        ({"evaluation": {"retension": True}}, "Did you mean 'retention'?"),
    ],
)
def test_a_fault_in_the_file_says_what_to_do(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        load_study(write_study(tmp_path, {"variants": TWO, **change}))


def grid(place: Path, model: Path, overrides: tuple[str, ...] = (), **study: Any) -> Grid:
    write_recipe(place, model)
    path = write_study(place, {"folder": str(place / "out"), "variants": TWO, **study})
    return grid_of(load_study(path), path, overrides)


def test_runs_go_seed_by_seed_and_the_same_seed_reaches_every_row(tmp_path, tiny_checkpoint):
    variants = [{**TWO[0], "seeds": [3, 4]}, TWO[1]]
    made = grid(tmp_path, tiny_checkpoint, variants=variants, seeds=[3])
    assert [(run.variant, run.seed) for run in made.runs] == [("plain", 3), ("other", 3), ("plain", 4)]
    assert [run.config.training["seed"] for run in made.runs] == [3, 3, 4]
    first = made.runs[0]
    assert Path(first.config.training["output_dir"]) == made.folder_of(first) / "train"
    assert made.base.id.startswith("base-")


def test_options_are_laid_over_each_other_variant_over_study_and_the_command_line_over_all(tmp_path, tiny_checkpoint):
    common = {"training.max_steps": 5, "training.learning_rate": 0.5}
    variants = [TWO[0], {**TWO[1], "set": {"training.max_steps": 6, "teacher": {"kind": "ema", "decay": 0.5}}}]
    made = grid(tmp_path, tiny_checkpoint, ("rollout.temperature=0.9",), variants=variants, set=common)
    plain, other = (run.config for run in made.runs)
    assert (plain.training["max_steps"], other.training["max_steps"]) == (5, 6)
    assert plain.training["learning_rate"] == other.training["learning_rate"] == 0.5
    assert (plain.teacher.kind, other.teacher.kind) == ("base", "ema")
    assert plain.rollout.temperature == other.rollout.temperature == 0.9


def test_what_the_study_decides_is_refused_on_the_command_line_too(tmp_path, tiny_checkpoint):
    for override in ("training.seed=7", "training={seed: 7, max_steps: 3}"):
        with pytest.raises(ConfigError, match="training.seed is decided by the study. Give `seeds`"):
            grid(tmp_path, tiny_checkpoint, (override,))


def test_another_setting_or_other_data_is_another_run_and_another_folder_is_not(tmp_path, tiny_checkpoint, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Say red", "privileged_context": "red", "completion": "red", "answer": "red"}\n')
    local = {"data.train": {"path": str(rows)}}

    def ids(**study: Any) -> list[str]:
        return [run.id for run in grid(tmp_path, tiny_checkpoint, **{"set": local, **study})]

    before = ids()
    assert ids() == before == ids(folder=str(tmp_path / "elsewhere"))
    changed = ids(set={**local, "training.learning_rate": 0.5})
    # The base is not trained.
    assert [mine == theirs for mine, theirs in zip(before, changed, strict=True)] == [True, False, False]
    assert not set(before) & set(ids(evaluation={"teacher": False}))
    assert not set(before) & set(ids(set={**local, "eval.limit": 3}))
    (tmp_path / "rows").mkdir()
    shutil.copy(rows, tmp_path / "rows")
    local = {"data.train": {"path": str(tmp_path / "rows")}}
    of_folder = ids()
    rows.write_text(rows.read_text() * 2)
    assert ids() == of_folder
    shutil.copy(rows, tmp_path / "rows")
    assert ids()[1:] != of_folder[1:]
    local = {"data.train": {"path": str(rows)}}
    assert ids()[1:] != before[1:]
    # As the data is read: `~` is the home.
    monkeypatch.setenv("HOME", str(tmp_path))
    local = {"data.train": {"path": "~/rows.jsonl"}}
    of_home = ids()
    rows.write_text(rows.read_text() * 2)
    assert ids()[1:] != of_home[1:]


def test_other_weights_or_another_template_in_the_same_place_make_other_runs(tmp_path, tiny_checkpoint):
    model = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, model)

    def ids() -> set[str]:
        return {run.id for run in grid(tmp_path, model)}

    # Where the model lies does not count.
    first = ids()
    assert first == {run.id for run in grid(tmp_path, tiny_checkpoint)}
    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    second = ids()
    (model / "generation_config.json").write_text("{}")
    third = ids()
    (model / "results.json").write_text("{}")
    (model / "tokenizer").mkdir()
    assert ids() == third
    assert len(first | second | third) == 3 * len(first)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"variants": [TWO[0], {**TWO[1], "config": "recipee.yaml"}]}, "other: .*recipee.yaml: there is no such file"),
        ({"variants": [TWO[0], {**TWO[1], "set": {"rollout.temprature": 1}}]}, "other: .*Did you mean 'temperature'"),
        ({"variants": [TWO[0], {**TWO[1], "set": {"eval.limit": 3}}]}, "other: eval.limit is 3, but the base"),
        ({"variants": [TWO[0], {**TWO[1], "seeds": [7]}]}, "other: shares no seed with its baseline plain"),
        ({"set": {"data.train": {"path": "none.jsonl"}}}, "plain: .*none.jsonl: no such file"),
        ({"set": {"eval.tasks": []}}, "plain: there is nothing to grade"),
        ({"set": {"training.optim": "adam"}}, "plain: .*training"),
        ({"evaluation": {"general_text": "none.txt"}}, "general_text: none.txt: cannot be read"),
        ({"set": {"data.max_prompt_length": 8}}, "plain: row 0: The view 'prompt' has .* but max_prompt_length is 8"),
        (
            {"set": {"data.max_teacher_prompt_length": 8}, "evaluation": {"teacher": True}},
            "evaluation.teacher: row 0: The view 'privileged' has .* but max_teacher_prompt_length is 8",
        ),
    ],
)
def test_a_fault_in_any_run_comes_before_the_first_starts(tmp_path, tiny_checkpoint, study, message):
    with pytest.raises(ConfigError, match=message):
        grid(tmp_path, tiny_checkpoint, **study)
    assert not (tmp_path / "out").exists()


def test_the_plan_lists_runs_and_passes(tmp_path, tiny_checkpoint):
    variants = [
        TWO[0],
        {**TWO[1], "set": {"objective": {"divergence": "none"}, "components": [{"type": "cross_entropy"}]}},
    ]
    made = grid(tmp_path, tiny_checkpoint, variants=variants)
    study = load_study(tmp_path / "study.yaml")
    text = plan_text(study, made, {run.id: "to do" for run in made})
    assert text.splitlines()[0] == f"the base and 2 runs in {tmp_path / 'out'}; compared with plain"
    assert all(f"{run.id}" in text for run in made)
    plain, other = text.split("other: recipe.yaml, seeds 0")
    assert "privileged" in plain
    assert "privileged" not in other


def test_the_base_is_that_of_the_first_row_with_a_teacher_or_the_one_that_is_named(tmp_path, tiny_checkpoint):
    fitted = {"objective": {"divergence": "none"}, "components": [{"type": "cross_entropy"}]}
    variants = [
        {**TWO[0], "set": {**fitted, "contexts.privileged.repeats": 1}},
        {**TWO[1], "set": {"contexts.privileged.repeats": 3}},
    ]
    assert grid(tmp_path, tiny_checkpoint, variants=variants).base.config.contexts.privileged.repeats == 3
    named = grid(tmp_path, tiny_checkpoint, variants=variants, base="plain")
    assert named.base.config.contexts.privileged.repeats == 1
