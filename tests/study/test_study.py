"""A study end to end on a tiny model: real training runs in processes of their own, a failure, and a second call."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from peft import PeftModel

from tests.study.studies import write_recipe, write_study
from unisd.cli import main as cli
from unisd.config.dump import resolved_yaml
from unisd.config.load import load_config
from unisd.evaluate.results import Results
from unisd.planning import passes_of
from unisd.study.grid import grid_of
from unisd.study.record import TrainingRecord
from unisd.study.run import Order, main, passes_per_step
from unisd.study.schema import load_study
from unisd.study.study import jobs_of, run_study
from unisd.trainer import SelfDistillTrainer

AGREEMENT = {
    "contexts.auxiliary": {"type": "few_shot", "count": 2},
    "components": [{"type": "agreement", "strength": 0.0}],
}
"""A strength of 0 does nothing, which the table has to say."""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def test_a_study_runs_records_its_failure_and_goes_on_where_it_was(tmp_path, tiny_checkpoint, capsys):
    write_recipe(tmp_path, tiny_checkpoint)
    study = {
        "folder": str(tmp_path / "out"),
        "evaluation": {"retention": True},
        "variants": [
            {"name": "agreement", "config": "recipe.yaml", "set": AGREEMENT},
            # Known only when the prompts are rendered.
            {"name": "short", "config": "recipe.yaml", "set": {"data.max_teacher_prompt_length": 60}},
        ],
    }
    path = write_study(tmp_path, study)
    with pytest.raises(ValueError, match="1 of 3 runs failed: short-seed0-"):
        run_study(path, num_parallel=2)
    said = capsys.readouterr().out
    assert "[3/3]" in said
    assert "failed: ValueError: train data: row 0: The view 'privileged' has" in said
    assert load_study(tmp_path / "out" / "study.yaml") == load_study(path)
    text = (tmp_path / "out" / "table.md").read_text()
    assert "**agreement (1 of 1 seeds)**" in text
    assert "- short-seed0-" in text

    grid = grid_of(load_study(path), path)
    folder = grid.folder_of(grid.of_variant("agreement")[0])
    assert {"metrics.json", "examples.json"} <= {path.name for path in (folder / "train").iterdir()}
    assert not list((folder / "train").glob("*.safetensors"))
    record = TrainingRecord.load(folder)
    assert (record.num_steps, record.passes_per_step, record.num_parallel) == (2, 4, 2)
    assert {"rollout", "teacher", "student", "update"} == set(record.seconds_per_step)
    stored = Results.load(folder / "results.json")
    assert (stored.limit, stored.retention is not None) == (4, True)

    del study["variants"][1]
    table = run_study(write_study(tmp_path, study))
    assert "2 runs in" in (again := capsys.readouterr().out)
    assert "2 of them finished" in again
    assert table.missing == {}
    assert [run.rpartition("-")[0] for run in table.finished] == ["base", "agreement-seed0"]
    (tmp_path / "out" / "table.json").unlink()
    assert cli(["study", str(tmp_path / "study.yaml"), "--table"]) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["base", "agreement"]
    assert rows[1]["gold_perplexity"] != rows[0]["gold_perplexity"]


def test_a_run_in_this_process_equals_training_by_hand_and_may_keep_its_model(tmp_path, tiny_checkpoint):
    write_recipe(tmp_path, tiny_checkpoint)
    study = {"folder": str(tmp_path / "out"), "variants": [{"name": "plain", "config": "recipe.yaml", "seeds": [5]}]}
    path = write_study(tmp_path, study)
    (run,) = grid_of(load_study(path), path).runs
    folder = tmp_path / "run"
    folder.mkdir()
    write_recipe(folder, tiny_checkpoint, "unisd.yaml")
    config = load_config(folder / "unisd.yaml", {"training.output_dir": str(folder / "train"), "training.seed": 5})
    (folder / "unisd.yaml").write_text(resolved_yaml(config))
    Order("plain", 5, run.evaluation, keep_models=True, num_parallel=1, num_threads=1).save(folder)
    main(folder)
    by_hand = SelfDistillTrainer.from_config(config)
    by_hand.train()
    losses = [entry["loss"] for entry in by_hand.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in TrainingRecord.load(folder).history if "loss" in entry] == losses
    assert Results.load(folder / "results.json").seed == 5
    assert (folder / "train" / "adapter_model.safetensors").is_file()
    assert isinstance(by_hand.model, PeftModel)


def test_a_default_clip_that_never_cuts_does_not_mark_a_row_and_one_that_is_named_does(tmp_path, tiny_checkpoint):
    write_recipe(tmp_path, tiny_checkpoint)
    named = [{"type": "divergence_clip", "ceiling": 10.0}]
    variants = [
        {"name": name, "config": "recipe.yaml", "set": {"components": components, "training.max_steps": 1}}
        for name, components in (("default", None), ("named", named))
    ]
    path = write_study(tmp_path, {"folder": str(tmp_path / "out"), "variants": variants})
    study = load_study(path)
    grid = grid_of(study, path)
    inert = []
    for run in grid.runs:
        job = jobs_of(study, grid, num_parallel=1, num_threads=1)[run.id]
        job.folder.mkdir(parents=True)
        job.prepare(job.folder)
        main(job.folder)
        inert.append(TrainingRecord.load(job.folder).inert)
    assert inert == [(), ("divergence_clip: it changed no token's value or weight. Adjust it, or remove it.",)]
    # Named or not, the settings are the same.
    assert len({run.id.rpartition("-")[2] for run in grid.runs}) == 1


def test_forward_passes_count_views_gates_and_micro_batches(tmp_path, tiny_checkpoint):
    file = write_recipe(tmp_path, tiny_checkpoint)
    plain = load_config(file)
    assert passes_per_step(passes_of(plain), plain) == 2
    gate = {"signal": "sampler_nll", "fraction": 0.25}
    gated = load_config(
        file,
        {
            "contexts.auxiliary": {"type": "few_shot", "count": 4, "gate": gate},
            "components": [{"type": "agreement"}],
            "training.gradient_accumulation_steps": 3,
        },
    )
    # Student, teacher, a quarter of four views; three micro-batches.
    assert passes_per_step(passes_of(gated), gated) == 9


def test_the_command_plans_and_refuses(tmp_path, tiny_checkpoint, capsys):
    write_recipe(tmp_path, tiny_checkpoint)
    variants = [{"name": "plain", "config": "recipe.yaml"}]
    path = str(write_study(tmp_path, {"folder": str(tmp_path / "out"), "variants": variants}))
    assert cli(["study", path, "--plan", "training.max_steps=1"]) == 0
    assert "the base and 1 runs in" in capsys.readouterr().out
    for arguments, message in (
        ([path, "--table"], "holds no finished run of this study"),
        ([path, "--jobs", "0"], "--jobs must be at least 1, got 0"),
        ([path, "rollout.temprature=1"], "plain: rollout: 'temprature' is not an option"),
        ([str(tmp_path / "recipe.yaml")], "'model' is not an option of a study"),
    ):
        assert cli(["study", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_keeps_its_name_where_the_model_moves_and_not_where_it_changes(tmp_path, tiny_checkpoint):
    def ids(model) -> list[str]:
        write_recipe(tmp_path, model)
        path = write_study(tmp_path, {"variants": [{"name": "one", "config": "recipe.yaml"}]})
        return [run.id for run in grid_of(load_study(path), path)]

    moved = tmp_path / "moved"
    shutil.copytree(tiny_checkpoint, moved)
    assert ids(moved) == ids(tiny_checkpoint)
    with (moved / "config.json").open("a") as file:
        file.write("\n")
    assert ids(moved)[1] != ids(tiny_checkpoint)[1]
