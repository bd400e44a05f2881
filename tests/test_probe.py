"""The probe: what it measures, and when it says that there is something to learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from unisd.config.load import load_config
from unisd.config.schema import RunConfig
from unisd.contexts.demonstration import Demonstration
from unisd.probe import ProbedView, ProbeResult, _continued, divergences, probe
from unisd.rollout.collate import Row
from unisd.tasks.accuracy import TaskResult
from unisd.tasks.cmd import CmdTask
from unisd.types import Completion, Example

STYLES = {"once": Demonstration(style="turns", repeats=1), "twice": Demonstration(style="turns", repeats=2)}
QUESTIONS = ["Name a colour.", "And a number?", "What is the capital of the country that lies south of here?", "Why?"]


@pytest.fixture
def config_of(tmp_path, tiny_checkpoint):
    """Writes rows and a configuration that reads them, and loads it."""

    def build(rows: list[dict[str, str]], *, grader: str | None = "exact_match") -> RunConfig:
        (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = {"path": str(tmp_path / "eval.jsonl"), **({"grader": grader} if grader else {})}
        document = {
            "model": {"name_or_path": str(tiny_checkpoint)},
            "data": {"eval": source},
            "rollout": {"max_completion_length": 6, "generation_batch_size": 3},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
        return load_config(tmp_path / "run.yaml")

    return build


def rows_with(answers: list[str], **columns: str) -> list[dict[str, str]]:
    return [
        {"prompt": question, "privileged_context": "Blue, or 7.", "answer": answer, **columns}
        for question, answer in zip(QUESTIONS, answers, strict=True)
    ]


def view(num_correct: int, n: int) -> ProbedView:
    correct = [place < num_correct for place in range(n)]
    completion = Completion([1, 2], None, is_finished=True)
    return ProbedView("x", [[0] * 7] * n, [completion] * n, ["a"] * n, TaskResult("t", correct, [True] * n, ["a"] * n))


def result_of(
    student: ProbedView, teacher: ProbedView, values: list[list[float]], continued: ProbedView | None = None
) -> ProbeResult:
    n = len(student.prompts)
    return ProbeResult(CmdTask(), [Example(prompt="ask")] * n, student, [teacher], continued or teacher, values)


def test_a_model_that_answers_as_the_key_says_only_when_shown_has_something_to_learn(config_of):
    unknown = probe(config_of(rows_with([""] * 4)))
    assert unknown.student.texts != unknown.teacher.texts
    measured = probe(config_of(rows_with(unknown.teacher.texts)))
    assert measured.teacher.texts == unknown.teacher.texts
    assert graded(measured.teacher) == [True] * 4
    assert graded(measured.student) == [False] * 4
    assert measured.verdict().startswith("teacher 100 %, student 0 %: there is something to learn.")


def graded(probed: ProbedView) -> list[bool]:
    assert probed.result is not None
    return probed.result.correct


@pytest.mark.parametrize(
    ("student", "teacher", "n", "expected"),
    [
        (2, 97, 100, "there is something to learn"),
        (50, 50, 100, "no gap on 100 prompts: training cannot help"),
        (50, 20, 100, "no gap on 100 prompts: training cannot help"),
        # 50 % [40, 60] against 65 % [55, 74]: above the student's interval, but the intervals touch.
        (50, 65, 100, "100 prompts are too few to be sure"),
        (500, 650, 1000, "there is something to learn"),
    ],
)
def test_the_verdict_follows_the_intervals(student, teacher, n, expected):
    assert expected in result_of(view(student, n), view(teacher, n), [[1.0]]).verdict()


@pytest.mark.parametrize(("num_right", "is_limited"), [(10, True), (30, False)])
def test_a_teacher_that_cannot_go_on_from_the_student_is_pointed_out(num_right, is_limited):
    # 10 % [6, 17] of the student's answers are right.
    measured = result_of(view(10, 100), view(90, 100), [[1.0]], view(num_right, 100))
    assert "there is something to learn" in measured.verdict()
    assert ("after the student's first token the teacher is right on 10 %" in measured.verdict()) is is_limited


def test_the_teacher_goes_on_from_the_first_token_of_the_student(config_of, tmp_path):
    measured = probe(config_of(rows_with([""] * 4)))
    model = AutoModelForCausalLM.from_pretrained(load_config(tmp_path / "run.yaml").model.name_or_path)
    views = zip(measured.teacher.prompts, measured.student.completions, measured.continued.completions, strict=True)
    for prompt, student, continued in views:
        ids = prompt + student.ids[:1]
        while len(ids) < len(prompt) + len(continued.ids):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert continued.ids == ids[len(prompt) :]
        assert len(continued.ids) == 6 or continued.is_finished
    assert measured.continued.texts != measured.teacher.texts


def test_a_student_that_ends_at_once_leaves_the_teacher_nothing_to_go_on_with(tiny_tokenizer):
    ended = Completion([tiny_tokenizer.eos_token_id], None, is_finished=True)
    long = Completion([5, 6, 7], None, is_finished=False)
    assert _continued(ended, long, 8) is ended
    assert _continued(long, long, 4) == Completion([5, 5, 6, 7], None, is_finished=False)
    done = Completion([6, 7, 8], None, is_finished=True)
    assert _continued(long, done, 4) == Completion([5, 6, 7, 8], None, is_finished=True)
    # The token that would have ended it no longer fits.
    assert _continued(long, done, 3) == Completion([5, 6, 7], None, is_finished=False)


def test_without_a_grader_there_is_no_accuracy_and_no_verdict(config_of):
    measured = probe(config_of(rows_with([""] * 4), grader=None), num_prompts=2)
    assert measured.student.result is None
    assert "accuracy was not measured" in measured.verdict()
    assert "not graded" in measured.text()


def test_divergences_equal_the_sum_over_the_vocabulary_of_each_row_alone(tiny_model, tiny_tokenizer):
    model = tiny_model()
    views = [{"prompt": [5, 6, 7], "privileged": [9, 8, 7, 6, 5]}, {"prompt": [4] * 8, "privileged": [3, 4]}]
    completions = [[10, 11, 12], [13]]
    rows = [
        Row(Example(prompt=""), each, Completion(ids, None, is_finished=False))
        for each, ids in zip(views, completions, strict=True)
    ]
    for each, ids, measured in zip(views, completions, divergences(model, tiny_tokenizer, rows), strict=True):
        student, teacher = (log_probs(model, each[name], ids) for name in ("prompt", "privileged"))
        torch.testing.assert_close(torch.tensor(measured), (teacher.exp() * (teacher - student)).sum(-1))


@torch.no_grad()
def log_probs(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def test_the_mean_of_a_position_counts_the_completions_that_reach_it():
    measured = result_of(view(0, 2), view(2, 2), [[1.0, 5.0, 7.0], [3.0]])
    assert measured.divergence_by_position == [2.0, 5.0, 7.0]
    assert "first token 2.000, median of all tokens 4.000" in measured.text()
    assert "first token diverges" not in measured.text()


def test_a_first_token_far_above_the_median_is_pointed_out():
    measured = result_of(view(0, 1), view(1, 1), [[5.1, 0.5, 0.5, 0.5]])
    assert "first token diverges more than 10 times as much" in measured.text()


def test_styles_of_demonstration_stand_side_by_side(config_of):
    measured = probe(config_of(rows_with([""] * 4)), num_prompts=3, styles=STYLES)
    assert [one.name for one in measured.teachers] == ["teacher (privileged)", "teacher (once)", "teacher (twice)"]
    configured, once, twice = measured.teachers
    assert twice.prompts == configured.prompts
    # One byte is one token: the prompt again, the context, and the marks of two turns.
    assert len(configured.prompts[0]) > len(once.prompts[0]) > len(measured.student.prompts[0])
    assert len(measured.examples) == len(once.texts) == 3


def test_a_style_that_does_not_fit_is_named_and_not_measured(config_of, caplog):
    config = config_of(rows_with([""] * 4))
    config = replace(config, contexts=replace(config.contexts, privileged=STYLES["once"]))
    longest = max(len(prompt) for prompt in probe(config).teachers[0].prompts)
    config = replace(config, data=replace(config.data, max_teacher_prompt_length=longest))
    measured = probe(config, styles=STYLES)
    assert [one.name for one in measured.teachers] == ["teacher (privileged)", "teacher (once)"]
    assert "teacher (twice): not measured, as it does not fit. The view 'privileged' has" in caplog.text


def test_the_report_shows_lengths_and_completions_of_both(config_of):
    measured = probe(config_of(rows_with([""] * 4)))
    report = measured.text()
    lengths = sorted(len(prompt) for prompt in measured.student.prompts)
    assert f"{lengths[0]} / {round((lengths[1] + lengths[2]) / 2)} / {lengths[-1]}" in report
    assert report.count("  student ") == 3
    assert QUESTIONS[2] in report
    assert QUESTIONS[3] not in report


def test_a_data_set_that_shows_the_teacher_nothing_is_refused(config_of):
    rows = [{"prompt": question, "answer": ""} for question in QUESTIONS]
    with pytest.raises(ValueError, match="4 of 4 rows have no privileged_context"):
        probe(config_of(rows))


def test_a_view_that_only_some_rows_have_is_named_and_not_measured(config_of, caplog):
    rows = rows_with([""] * 4)
    for row, negative in zip(rows, ("Red.", None, "Red.", "Red."), strict=True):
        row |= {"negative_context": negative, "auxiliary_contexts": ["Green."]}
    measured = probe(config_of(rows))
    assert [one.name for one in measured.teachers] == ["teacher (privileged)", "teacher (auxiliary_0)"]
    assert "negative: only 3 of 4 rows have this view: not measured" in caplog.text


def test_a_configuration_without_held_out_prompts_is_refused(tmp_path: Path, tiny_checkpoint: Path):
    (tmp_path / "run.yaml").write_text(f"model: {{name_or_path: {tiny_checkpoint}}}\ndata: {{train: cmd}}\n")
    with pytest.raises(ValueError, match=r"data\.eval is missing"):
        probe(load_config(tmp_path / "run.yaml"))
