"""The table of a study against hand-made results."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.hand import base_results, finished, results
from unisd.evaluate.results import TextPerplexity
from unisd.stats import mcnemar_exact, wilson
from unisd.study.record import TrainingRecord, mechanisms_of, median_seconds
from unisd.study.render import csv_text, json_text, markdown
from unisd.study.table import Finished, Table, table_of

BASE = base_results([0, 0, 0, 0], ceiling=1.0)
FITTED = {0: finished([1, 1, 0, 0]), 1: finished([1, 1, 1, 0], seed=1)}


def table(*, baseline: str = "fitted", **variants: dict[int, Finished]) -> Table:
    named = {"fitted": FITTED, **variants}
    baselines = {name: None if name == baseline else baseline for name in named}
    return table_of(BASE, named, baseline=baseline, baselines=baselines, missing={"late-seed0-x": "to do"})


def cells(text: str, variant: str) -> list[str]:
    """Of the first row of that name."""
    return next(line for line in text.splitlines() if line.startswith(f"| {variant} |")).split(" | ")[1:]


def test_accuracy_is_the_mean_over_seeds_and_differences_are_paired():
    base, fitted = table().rows
    assert (base.variant, base.accuracy.value, base.accuracy.low) == ("base", 0.0, wilson(0, 4)[0])
    assert fitted.accuracy.value == pytest.approx(0.625)
    assert fitted.accuracy_by_seed == {0: 0.5, 1: 0.75}
    assert fitted.to_base is not None
    # Sums over seeds 2, 2, 1, 0: both extremes of the eight ways of signs.
    assert fitted.to_base.p_models == pytest.approx(0.25)
    assert fitted.to_base.difference.value == pytest.approx(0.625)
    assert fitted.to_baseline is None


def test_a_row_is_paired_with_its_baseline_over_the_seeds_they_share():
    row = table(other={1: finished([0, 1, 1, 1], seed=1), 2: finished([1, 1, 1, 1], seed=2)}).rows[2]
    assert row.seeds == (1, 2)
    assert row.to_baseline is not None
    assert row.to_baseline.num_seeds == 1
    # Seed 1: one item won, one lost.
    assert row.to_baseline.difference.value == 0
    assert row.to_baseline.p_models == mcnemar_exact(1, 1)
    assert row.to_baseline.p_recipe is None


def test_a_difference_over_fewer_seeds_than_the_row_has_says_so():
    other = {seed: finished([1, 1, 1, 0], seed=seed) for seed in (1, 2)}
    text = markdown(table(other=other, alike=dict.fromkeys((0, 1), other[1])))
    assert cells(text, "other")[0] == "2"
    assert cells(text, "other")[3].endswith(" (over 1 of its seeds)")
    assert cells(text, "other")[5] == "one seed"
    assert "over" not in cells(text, "alike")[3]


def test_items_are_paired_by_id_and_not_by_place():
    run = finished([1, 1, 0, 0])
    (task,) = run.results.tasks
    turned = replace(run, results=replace(run.results, tasks=(replace(task, items=task.items[::-1]),)))
    comparison = table(other={0: turned}).rows[2].to_baseline
    assert comparison is not None
    assert comparison.p_models == 1.0
    other_items = replace(run, results=results([1, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match="not of the same items"):
        table(other={0: other_items})


def test_a_row_whose_mechanism_did_nothing_is_marked():
    inert = "agreement: every weight is above 0.99. Raise its strength."
    runs = {0: finished([1, 1, 1, 1], inert=(inert,)), 1: finished([1, 1, 1, 1], seed=1)}
    made = table(agreement=runs)
    (finding,) = made.rows[2].inert
    assert (finding.part, finding.num_seeds) == ("agreement", 1)
    text = markdown(made)
    assert cells(text, "agreement")[-1] == "**agreement (1 of 2 seeds)** |"
    assert cells(text, "fitted")[-1] == "no |"
    assert f"- agreement, 1 of 2 seeds: {inert}" in text


def test_figures_in_a_sentence_do_not_tell_seeds_apart():
    signs = [("completions grew from 5 to 9 tokens.",), ("completions grew from 6 to 11.5 tokens.",)]
    runs = {seed: finished([1, 1, 1, 1], seed=seed, signs=sign) for seed, sign in enumerate(signs)}
    (finding,) = table(long=runs).rows[2].signs
    assert (finding.num_seeds, finding.sentence) == (2, signs[0][0])


def test_costs_and_retention_are_means_over_seeds():
    runs = {
        0: finished([1, 0, 0, 0], jsd=0.02, seconds_per_step={"student": 1.0}, passes_per_step=4.0),
        1: finished([1, 0, 0, 0], seed=1, jsd=0.04, seconds_per_step={"student": 2.0}, passes_per_step=4.0),
    }
    row = table(other=runs).rows[2]
    assert row.seconds_per_step == pytest.approx(1.5)
    assert row.passes_per_step == 4
    assert row.retained is not None
    jsd_own, jsd_base, logp_lost = row.retained.jsd_own, row.retained.jsd_base, row.retained.logp_lost
    assert jsd_own is not None
    assert jsd_base is not None
    assert logp_lost is not None
    # A standard error of 0.01, and t with one degree of freedom.
    assert (jsd_own.value, jsd_own.low, jsd_own.high) == pytest.approx((0.03, 0.03 - 0.12706, 0.03 + 0.12706), abs=1e-5)
    assert jsd_base.value == pytest.approx(0.06)
    # -1 under the base and -1.25 under the model.
    assert (logp_lost.value, logp_lost.low, logp_lost.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_perplexity_of_general_text_has_its_interval_over_seeds_and_the_base_has_none():
    def reading(run: Finished, perplexity: float) -> Finished:
        text = TextPerplexity("text.txt", 100, 50, perplexity, None)
        return replace(run, results=replace(run.results, general_text=text))

    base = replace(base_results([0, 0], ceiling=1.0), general_text=TextPerplexity("text.txt", 100, 50, 9.5, None))
    runs = {seed: reading(finished([1, 1], seed=seed), 10.0 + seed) for seed in (0, 1)}
    text = markdown(table_of(base, {"fitted": runs}, baseline="fitted", baselines={"fitted": None}, missing={}))
    (retention,) = [part for part in text.split("\n\n") if "text perplexity" in part]
    # A standard error of 0.5, and t with one degree of freedom.
    assert cells(retention, "fitted")[-1] == "10.50 [4.15, 16.85] |"
    assert cells(retention, "base")[-1] == "9.50 |"


def test_the_three_forms_say_the_same():
    made = table(other={0: finished([1, 1, 1, 1])})
    text = markdown(made)
    assert cells(text, "base")[1] == "0.0 [0.0, 49.0]"
    assert cells(text, "teacher's view")[1] == "100.0 [51.0, 100.0]"
    fitted, other = cells(text, "fitted"), cells(text, "other")
    assert fitted[0] == "2"
    assert fitted[1].startswith("62.5 [")
    assert fitted[3:6] == ["", "", ""]
    assert other[3].startswith("+50.0 [")
    assert other[4:6] == ["0.5", "one seed"]
    assert other[6:8] == ["2.00", "2"]
    assert "- late-seed0-x: to do" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(made))))
    assert [line["variant"] for line in lines] == ["base", "fitted", "other"]
    assert float(lines[2]["to_baseline_difference"]) == 0.5
    assert lines[2]["to_baseline_p_recipe"] == lines[0]["seconds_per_step"] == ""
    document = json.loads(json_text(made))
    assert document["rows"][1]["accuracy"]["value"] == 0.625
    assert document["ceilings"][0]["accuracy"] == 1.0


def test_conditions_in_which_the_runs_differ_are_named():
    run = finished([1, 1, 1, 1])
    other = replace(run, results=replace(run.results, git_hash="def"))
    conditions = table(other={0: other}).conditions
    assert "commit: abc; def (the runs differ in this)" in conditions
    assert "weights: tiny" in conditions


def test_a_study_with_nothing_finished_has_a_table_that_says_so():
    made = table_of(None, {"fitted": {}}, baseline="fitted", baselines={"fitted": None}, missing={"a": "to do"})
    assert "- a: to do" in markdown(made)
    assert json.loads(json_text(made))["rows"] == []
    assert csv_text(made) == "variant\n"


HISTORY = [
    {"step": 1, "loss": 1.0, "time/student": 4.0, "agreement/weight_mean": 0.8, "teacher/distance_to_base": 0.0},
    {"step": 4, "loss": 0.5, "time/student": 2.0, "agreement/weight_mean": 0.6, "teacher/distance_to_base": 0.3},
    {"step": 6, "loss": 0.4, "time/student": 2.0, "agreement/weight_mean": 0.7, "teacher/distance_to_base": 0.2},
    {"step": 6, "train_runtime": 9.0},
]


def test_seconds_and_mechanisms_come_from_the_log():
    assert median_seconds(HISTORY) == {"student": 2.0}
    assert mechanisms_of(HISTORY, ["agreement"]) == {
        "agreement/weight_mean": pytest.approx(0.7),
        "teacher/distance_to_base": 0.2,
    }
    assert mechanisms_of(HISTORY, []) == {"teacher/distance_to_base": 0.2}
    assert median_seconds([]) == {}


def test_a_record_is_read_back_and_a_broken_one_says_so(tmp_path: Path):
    record = finished([1], history=HISTORY, inert=("a: b",)).training
    record.save(tmp_path)
    assert TrainingRecord.load(tmp_path) == record
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(ValueError, match="training.json: cannot be read"):
        TrainingRecord.load(tmp_path)
    assert not math.isnan(record.total_seconds_per_step)
