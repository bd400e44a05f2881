"""One evaluation of a live model: counted by hand, the same twice, and without a trace on the model."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace

import pytest
import torch

from tests.evaluate.scene import QUESTIONS, KeyTask, options_in
from tests.evaluate.test_likelihood import log_probs
from unisd.contexts.demonstration import Demonstration, build_views
from unisd.contexts.template import PromptOverflow
from unisd.evaluate.measure import graded, item_ids
from unisd.evaluate.results import Results, TeacherCeiling
from unisd.evaluate.retention import BaseModel
from unisd.evaluate.run import evaluate
from unisd.stats import wilson
from unisd.tasks.cmd import CmdTask
from unisd.tasks.local import DataSource, LocalTask
from unisd.tasks.task import Grade
from unisd.types import Example


@pytest.fixture
def answers(tiny_model, tiny_tokenizer, tmp_path) -> dict[str, str]:
    """What the tiny model writes to every question."""
    results = evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=options_in(tmp_path))
    return dict(zip(QUESTIONS, (item.completion for item in results.tasks[0].items), strict=True))


def without_time(results: Results) -> Results:
    return replace(results, created="")


def test_right_answers_lengths_and_cut_answers_are_counted(tiny_model, tiny_tokenizer, tmp_path, answers):
    key = {QUESTIONS[0]: answers[QUESTIONS[0]], QUESTIONS[2]: answers[QUESTIONS[2]], QUESTIONS[3]: "other"}
    results = evaluate(tiny_model(), tiny_tokenizer, [KeyTask(key)], options=options_in(tmp_path))
    task = results.task("key")
    assert [item.correct for item in task.items] == [True, False, True, False]
    assert [item.note for item in task.items] == ["", "not what the key says", "", "not what the key says"]
    assert (task.num_items, task.accuracy, task.accuracy_interval) == (4, 0.5, wilson(2, 4))
    assert task.well_formed_share == sum("?" not in text for text in answers.values()) / 4
    assert task.mean_num_tokens == sum(item.num_tokens for item in task.items) / 4
    assert task.truncated_share == sum(item.truncated for item in task.items) / 4
    assert all(item.num_tokens == 6 for item in task.items if item.truncated)
    assert task.privileged_overlap is not None
    assert (task.teacher, task.pass_at_k, results.general_text, results.retention) == (None,) * 4
    assert task.items[0].teacher_correct is None


def test_the_teacher_answers_under_the_privileged_view(tiny_model, tiny_tokenizer, tmp_path, answers):
    model, options = tiny_model(), options_in(tmp_path)
    # Asked outright, the privileged views are prompts like any other.
    views = [build_views(example, Demonstration())["privileged"] for example in KeyTask().eval_examples()]
    outright = evaluate(model, tiny_tokenizer, [KeyTask(questions=tuple(views))], options=options).tasks[0]
    shown = {question: item.completion for question, item in zip(QUESTIONS, outright.items, strict=True)}
    key = {**shown, QUESTIONS[0]: answers[QUESTIONS[0]]}
    task = evaluate(model, tiny_tokenizer, [KeyTask(key)], options=options, with_teacher=True).tasks[0]
    assert [item.correct for item in task.items] == [True, False, False, False]
    assert [item.teacher_correct for item in task.items] == [False, True, True, True]
    assert task.teacher == TeacherCeiling(4, 0.75, wilson(3, 4))


def test_without_a_privileged_context_there_is_no_teacher_and_no_overlap(tiny_model, tiny_tokenizer, tmp_path):
    task = KeyTask(context=None)
    measured = evaluate(tiny_model(), tiny_tokenizer, [task], options=options_in(tmp_path), with_teacher=True).tasks[0]
    assert (measured.teacher, measured.privileged_overlap) == (None, None)
    assert {item.teacher_correct for item in measured.items} == {None}


def test_gold_perplexity_is_that_of_the_completion_and_its_end(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model()
    measured = evaluate(model, tiny_tokenizer, [KeyTask()], options=options_in(tmp_path)).tasks[0].gold_perplexity
    gold = [*tiny_tokenizer.encode("blue"), tiny_tokenizer.eos_token_id]
    total = sum(
        log_probs(model, tiny_tokenizer.encode(question), gold)[range(5), gold].sum().item() for question in QUESTIONS
    )
    assert measured == pytest.approx(math.exp(-total / 20), rel=1e-5)
    without = evaluate(model, tiny_tokenizer, [KeyTask(completion=None)], options=options_in(tmp_path))
    assert without.tasks[0].gold_perplexity is None


def test_samples_that_cannot_differ_are_all_as_good_as_the_greedy_answer(tiny_model, tiny_tokenizer, tmp_path, answers):
    key = {question: answers[question] for question in QUESTIONS[:3]}
    options = options_in(tmp_path, temperature=1e-4)
    results = evaluate(tiny_model(), tiny_tokenizer, [KeyTask(key)], options=options, num_samples=3)
    assert [item.num_correct_samples for item in results.tasks[0].items] == [3, 3, 3, 0]
    assert results.tasks[0].pass_at_k == {1: 0.75, 2: 0.75, 3: 0.75}
    assert (results.generation.num_samples, results.generation.temperature) == (3, 1e-4)


def test_samples_depend_on_the_seed_and_on_nothing_else(tiny_model, tiny_tokenizer, tmp_path):
    class Census(KeyTask):
        seen: list[str] = []  # noqa: RUF012

        def grade(self, example: Example, completion: str) -> Grade:
            self.seen.append(completion)
            return Grade(False)

    def written(seed: int) -> set[str]:
        Census.seen = []
        options = options_in(tmp_path, temperature=1.0, seed=seed)
        evaluate(tiny_model(), tiny_tokenizer, [Census()], options=options, num_samples=2)
        return set(Census.seen)

    first = written(1)
    torch.manual_seed(99)
    assert written(1) == first
    assert written(2) != first


def test_twice_gives_the_same_and_leaves_the_model_as_it_was(tiny_model, tiny_tokenizer, tmp_path):
    model = tiny_model().train()
    text = tmp_path / "text.txt"
    text.write_text("All that is gold does not glitter.")
    state = torch.get_rng_state()

    def measure() -> Results:
        return evaluate(
            model,
            tiny_tokenizer,
            [CmdTask(), KeyTask()],
            options=options_in(tmp_path, max_prompt_length=2000, temperature=1.0),
            limit=3,
            num_samples=2,
            with_teacher=True,
            base=BaseModel("other", tiny_model(seed=1)),
            prompts={"more": ["Say something."]},
            general_text=text,
        )

    first = measure()
    assert without_time(measure()) == without_time(first)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert [task.num_items for task in first.tasks] == [3, 3]
    assert first.retention is not None
    assert [(one.name, one.num_prompts) for one in first.retention.prompts] == [("cmd", 3), ("key", 3), ("more", 1)]
    assert first.general_text is not None
    assert first.general_text.num_tokens == 33
    assert first.general_text.perplexity != first.general_text.base_perplexity
    first.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == first


def test_rows_over_the_prompt_budget_are_dropped_and_counted(tiny_model, tiny_tokenizer, tmp_path):
    options = options_in(tmp_path, max_prompt_length=14, on_overflow="drop")
    task = evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=options).tasks[0]
    assert (task.num_items, task.num_dropped) == (3, 1)


@pytest.mark.parametrize("on_overflow", ["error", "drop", "truncate_privileged"])
def test_a_privileged_view_over_budget_does_not_change_which_items_are_asked(
    tiny_model, tiny_tokenizer, tmp_path, on_overflow
):
    free, tight = (options_in(tmp_path, max_teacher_prompt_length=n, on_overflow=on_overflow) for n in (2000, 3))
    wanted, found = (evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=one).tasks[0] for one in (free, tight))
    assert found.items == wanted.items
    assert (found.num_dropped, found.privileged_overlap) == (0, None)
    if on_overflow == "drop":
        shown = evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=tight, with_teacher=True).tasks[0]
        assert [item.teacher_correct for item in shown.items] == [None] * 4
        assert shown.teacher is None
    else:
        with pytest.raises(PromptOverflow, match=r"row 0: The view 'privileged' has .* max_teacher_prompt_length is 3"):
            evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=tight, with_teacher=True)


def test_what_was_asked_is_kept_with_the_answer(tiny_model, tiny_tokenizer, tmp_path):
    task = evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=options_in(tmp_path)).tasks[0]
    assert [item.request for item in task.items] == list(QUESTIONS)


@pytest.mark.parametrize("size", [200, 320])
def test_a_base_of_another_vocabulary_is_refused_before_anything_is_computed(
    tiny_model, tiny_tokenizer, tmp_path, size
):
    other = tiny_model()
    other.resize_token_embeddings(size)
    base = BaseModel("other", other)
    with pytest.raises(ValueError, match=f"--retention: other has {size} logits a token, the evaluated model has 259"):
        evaluate(tiny_model(), tiny_tokenizer, [KeyTask()], options=options_in(tmp_path), base=base)


def test_a_prompt_has_one_id_in_every_run_and_a_repeated_one_another():
    chat = [{"role": "user", "content": "Why?"}]
    ids = item_ids([Example(prompt="Why?"), Example(prompt=chat), Example(prompt="Why?"), Example(prompt="Who?")])
    assert ids[2] == f"{ids[0]}-2"
    assert len(set(ids)) == 4
    # Pinned: results of an earlier version have to pair with those of this one.
    assert ids[0] == "499f097cf704535e"
    assert item_ids([Example(prompt=[{"content": "Why?", "role": "user"}])]) == [ids[1]]


def test_slow_graders_work_side_by_side_and_answers_keep_their_places():
    class Slow(KeyTask):
        threads: set[str] = set()  # noqa: RUF012

        def grade(self, example: Example, completion: str) -> Grade:
            time.sleep(0.05 if completion == "0" else 0)
            self.threads.add(threading.current_thread().name)
            return Grade(True, note=completion)

    examples = [Example(prompt="")] * 20
    grades = graded(Slow(), examples, [str(number) for number in range(20)])
    assert [grade.note for grade in grades] == [str(number) for number in range(20)]
    assert threading.main_thread().name not in Slow.threads


def test_graders_of_the_user_run_in_the_main_thread(monkeypatch):
    found = []

    def grade(self: LocalTask, example: Example, completion: str) -> Grade:
        found.append(threading.current_thread())
        return Grade(True)

    monkeypatch.setattr(LocalTask, "grade", grade)
    graded(LocalTask(eval=DataSource("x.jsonl", grader="exact_match")), [Example(prompt="")] * 2, ["a", "b"])
    assert found == [threading.main_thread()] * 2


@pytest.mark.parametrize(
    ("tasks", "changes", "message"),
    [
        ([KeyTask(), KeyTask()], {}, "'key' is given twice"),
        ([KeyTask()], {"num_samples": -1}, "num_samples must be 0"),
        ([KeyTask()], {"num_samples": 2, "temperature": 0.0}, "one answer, 2 times"),
        ([KeyTask()], {"prompts": {"p": ["a"]}}, "serve retention only"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_model, tiny_tokenizer, tmp_path, tasks, changes, message):
    options = options_in(tmp_path, temperature=changes.pop("temperature", 0.7))
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_model(), tiny_tokenizer, tasks, options=options, **changes)
