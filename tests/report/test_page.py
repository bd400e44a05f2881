"""The report of a run and of a study: what stands in it, what must not, and what is refused."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.report.folders import HOSTILE, history, kept_examples, write_run, write_study
from tests.report.tags import Tags
from tests.study.hand import base_results, finished, results
from unisd import train
from unisd.cli import main
from unisd.config import dump
from unisd.report import read
from unisd.report.charts import Bar, Curve, curves, intervals, mean_of
from unisd.report.page import report_html, write_report
from unisd.report.parts import curve_charts
from unisd.report.template import clean
from unisd.study.render import save_table
from unisd.study.table import table_of

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Tags:
    return Tags(report_html(write_run(tmp_path_factory.mktemp("run") / "first")))


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Tags:
    return Tags(report_html(write_study(tmp_path_factory.mktemp("study") / "grid")))


@pytest.mark.parametrize("name", ["run_page", "study_page"])
def test_nothing_acts_nothing_calls_and_hostile_texts_are_shown(name, request):
    page: Tags = request.getfixturevalue(name)
    assert not page.names & {"script", "img", "iframe", "object", "embed", "form"}
    assert page.acting == []
    assert clean(HOSTILE) in page.text
    assert "\u202e" not in page.text
    assert len(page.ids) == len(set(page.ids))


def test_a_run_shows_what_it_did_and_what_is_not_known(run_page):
    for text in (
        "tiny/model",
        "toy 75.0 %",
        "0 right before, 2 after, of 2",
        "One seed (3)",
        "Inert: contrastive.",
        "Accuracy was measured once on 8 prompts at most",
        "Not measured: the model before training on the same prompts, the teacher's ceiling, retention.",
        "contrastive: no gradient on 99 % of the tokens.",
        "completions grew",
        "Prompts of the held-out data",
        "a dog",
        "a cat",
        "pass  weights  context",
        "objective: {divergence: forward_kl}",
        "Divergence to the teacher, nats",
        "added term, its coefficient 0.1 multiplied in",
    ):
        assert text in run_page.text, text
    assert "svg" in run_page.names


def test_a_study_shows_intervals_what_is_missing_and_how_many_seeds(study_page):
    for text in (
        "Seeds: sft 3; sdft 3; unisd_star 1.",
        "hardly anything can be said of other seeds: unisd_star",
        "Not in the table: unisd_star-seed1-0: failed: out of memory",
        "Inert: unisd_star (contrastive)",
        "2 rows are compared with a baseline and no p is corrected",
        # 5, 5 and 5 of 8; 7, 7 and 8 of 8
        "62.5 [",
        "91.7 [",
        "+29.2 [",
        "teacher's view",
        "contrastive (1 of 1 seeds)",
        "Training prompts show what was fitted, not what was learned.",
        "sdft (3 seeds)",
        "Held-out prompts are the first that some rows answer right and others wrong, chosen afterwards.",
        "toy, held-out prompt item-0",
        "what is asked in item-0",
    ):
        assert text in study_page.text, text


def test_the_page_says_every_figure_as_the_markdown_table_does(tmp_path):
    folder = write_study(tmp_path / "grid")
    page = report_html(folder)
    lines = (folder / "table.md").read_text().splitlines()
    for name in ("base", "sft", "sdft", "unisd_star", "teacher's view"):
        line = next(line for line in lines if line.startswith(f"| {name} |"))
        correct, to_base, to_baseline, *p_values = line.split(" | ")[2:7]
        for cell in (correct, to_base, to_baseline, *p_values):
            assert f"<td>{cell}</td>" in page, (name, cell)
    # Six of six discordant prompts lost: 2 / 64
    assert "<td>0.031</td>" in page


def test_results_of_an_evaluation_give_the_accuracy_its_interval(tmp_path):
    folder = write_run(tmp_path / "run")
    results([1, 1, 1, 0]).save(folder / "results.json")
    page = report_html(folder)
    # Wilson for 3 of 4
    assert "toy 75.0 % [30.1, 95.4] of 4 prompts" in page
    assert "Accuracy was measured once" not in page
    # An evaluation of the trained model says nothing of the accuracy it started from.
    assert "Not measured: the model before training on the same prompts, the teacher&#39;s ceiling, " in page
    assert "Answers cut off at the length limit: 25 % on toy." in page


def test_without_examples_or_log_the_page_says_so(tmp_path):
    folder = write_run(tmp_path / "run", history=[], final={}, inert=[], warnings=[])
    for name in ("examples.json", "unisd.yaml"):
        (folder / name).unlink()
    page = Tags(report_html(folder)).text
    for text in (
        "Which weights were trained is not known",
        "Whether a part was inert is not known: nothing was logged.",
        "No accuracy was measured.",
        "No examples were kept",
        "Nothing: no inert part",
    ):
        assert text in page, text


def test_a_large_study_stays_below_two_megabytes_and_says_what_it_left_out(tmp_path):
    page = report_html(write_study(tmp_path / "large", num_steps=100, num_examples=8, num_tokens=96))
    assert len(page.encode()) < 2 * MEGABYTE
    # 3 recipes of 8 answers of 96 tokens; 10 fit into 1000 tokens.
    assert "14 more maps lie in examples.json" in page


def test_the_curves_of_many_runs_stay_small(tmp_path):
    run = read.read_folder(write_run(tmp_path / "run", history=history(100, start=2.0)))
    assert isinstance(run, read.RunRecord)
    # 165 runs; 1.5 megabytes with as many points as few runs have.
    charts = curve_charts({f"recipe-{number}": [run] * 5 for number in range(33)})
    assert sum(len(chart.svg) for chart in charts) < MEGABYTE


def test_what_would_be_too_large_goes_without_heat_maps_and_says_so(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    whole = report_html(folder)
    monkeypatch.setattr("unisd.report.page.MAX_BYTES", len(whole.encode()) - 1)
    smaller = Tags(report_html(folder))
    assert "2 more maps lie in examples.json" in smaller.text
    assert "student, likeliest" not in smaller.text
    assert "a cat" in smaller.text


def test_the_command_writes_one_file_and_replaces_it(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    assert main(["report", str(folder)]) == main(["report", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} - before == {"report.html"}
    assert f"Saved {folder / 'report.html'}." in capsys.readouterr().out
    assert main(["report", str(folder), "--output", str(tmp_path / "elsewhere" / "it.html")]) == 0
    assert (tmp_path / "elsewhere" / "it.html").read_text() == (folder / "report.html").read_text()


def test_a_report_needs_no_torch(tmp_path):
    program = (
        "import sys; from unisd.report.page import write_report; write_report(sys.argv[1]); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", program, str(write_run(tmp_path / "run"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folders_that_hold_nothing_to_report_are_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "holds neither metrics.json (of a finished `unisd train`) nor table.json" in capsys.readouterr().err
    (tmp_path / "metrics.json").write_text('{"final": ')
    with pytest.raises(ValueError, match="metrics.json: not JSON"):
        report_html(tmp_path)
    (tmp_path / "table.json").write_text('{"rows": 3}')
    with pytest.raises(ValueError, match="table.json: rows: .*Call `unisd study` again"):
        report_html(tmp_path)
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path), "training.seed=1"])


def test_a_missing_matplotlib_is_named_with_its_remedy_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = write_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"pip install -e '\.\[report\]'"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_file_names_are_those_of_the_modules_that_write_them():
    assert (read.CONFIG_FILE, read.METRICS_FILE) == (dump.CONFIG_FILE, train.METRICS_FILE)


def test_of_a_study_whose_settings_changed_and_came_back_the_runs_of_the_table_count(tmp_path):
    folder = write_study(tmp_path / "study")
    for name, created in (("sft-seed0-other", "2027"), ("base-other", "2027"), ("sft-seed0-old", "2025")):
        results([0] * 8, created=f"{created}-01-01T00:00:00+00:00").save(folder / name / "results.json")
    for name in ("sft-seed0-other", "sft-seed0-old"):
        (folder / name / "training.json").write_text((folder / "sft-seed0-0" / "training.json").read_text())
    (folder / "sft-seed0-old" / "results.json").write_text('{"schema_version": 0}')
    study = read.read_folder(folder)
    assert [run.name for run in study.of_variant("sft")] == ["sft-seed0-0", "sft-seed1-0", "sft-seed2-0"]
    assert study.base.task("toy").teacher is not None


def test_the_bold_line_is_the_mean_of_the_seeds_where_all_of_them_are():
    assert mean_of([{1: 2.0, 2: 4.0, 3: 9.0}, {1: 4.0, 2: 0.0}]) == {1: 3.0, 2: 2.0}
    assert mean_of([{1: 2.0}, {2: 4.0}]) == {1: 2.0, 2: 4.0}


def test_charts_take_their_colours_from_the_page_and_keep_names_as_text():
    lines = [Curve("<b>$x$", [{1: 1.0, 2: 2.0}, {1: 2.0, 2: 3.0}]), Curve("other", [{1: 1.0, 2: 1.0}])]
    for chart in (curves("Loss <i>", lines), intervals("Accuracy", [Bar("<b>$x$", 50.0, 40.0, 60.0)], unit="%")):
        svg = chart.svg
        assert "&lt;b&gt;$x$" in svg
        assert "<b>" not in svg
        assert "<i>" not in svg
        assert "currentColor" in svg
        assert "var(--series-0)" in svg
        # Nothing of matplotlib's own colours is left: it would vanish on one of the pages.
        assert "#000000" not in svg
        assert "#ffffff" not in svg


def test_no_curve_of_many_recipes_stands_alone_without_its_name(tmp_path):
    run = read.read_folder(write_run(tmp_path / "run"))
    assert isinstance(run, read.RunRecord)
    charts = [chart for chart in curve_charts({f"recipe-{n}": [run] for n in range(9)}) if "Loss" in chart.title]
    assert [chart.title for chart in charts] == [f"Loss ({n} of 3)" for n in (1, 2, 3)]
    named = [re.findall(r"recipe-\d", chart.svg) for chart in charts]
    assert [len(names) for names in named] == [3, 3, 3]
    assert sorted(name for names in named for name in names) == [f"recipe-{n}" for n in range(9)]


def test_the_charts_of_a_study_stand_alone_as_files(tmp_path):
    folder = write_study(tmp_path / "grid")
    assert main(["report", str(folder), "--charts", str(tmp_path / "charts")]) == 0
    files = sorted(path.name for path in (tmp_path / "charts").iterdir())
    assert {"accuracy-on-toy.svg", "toy-distance-to-the-base.svg", "loss.svg"} <= set(files), files
    for name in files:
        text = (tmp_path / "charts" / name).read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert set(re.findall(r"var[(](--[\w-]+)[)]", text)) <= set(re.findall(r"(--[\w-]+):", text))


def test_infinite_and_missing_numbers_do_not_break_the_curves(tmp_path):
    log = history(12)
    log[3]["loss"] = float("nan")
    log[4]["divergence"] = None
    folder = write_run(tmp_path / "run", history=log)
    run = read.read_folder(folder)
    assert 4.0 not in run.series("loss")
    assert len(run.series("loss")) == 11
    assert "Loss" in report_html(folder)


def test_a_run_that_diverged_does_not_cost_a_study_its_report(tmp_path):
    base, run = base_results([0, 1], ceiling=1.0), finished([1, 0], mechanisms={"loss/divergence": math.nan})
    baselines = {"sft": None}
    save_table(table_of(base, {"sft": {0: run}}, baseline="sft", baselines=baselines, missing={}), tmp_path)
    assert "| sft | loss/divergence | not finite |" in (tmp_path / "table.md").read_text()
    assert "<td>loss/divergence</td><td>not finite</td>" in report_html(tmp_path)


def test_examples_of_a_folder_are_read_with_the_run(tmp_path):
    folder = write_run(tmp_path / "run")
    assert read.read_folder(folder).examples == kept_examples()
    assert json.loads((folder / "examples.json").read_text())["temperature"] == 0.7
    assert Path(folder).name == read.read_folder(folder).name
