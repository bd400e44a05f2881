"""Multiple choice: which option a reply names, and questions whose options are shuffled without chance."""

from __future__ import annotations

import os

import pytest

from tests.tasks.published import COS_E, DATA, GPQA, SCIENCEQA, needs_data, turns, write_rows
from unisd.tasks.choice import UnreadableChoice, choice_example, read_choice
from unisd.tasks.cos_e import CosETask
from unisd.tasks.gpqa import GPQATask
from unisd.tasks.scienceqa import ScienceQATask
from unisd.tasks.source import DataSource

# With every annotation checked all of CoS-E takes ten seconds, so that only CI reads it all.
EVERY = 1 if os.environ.get("CI") else 25
OPTIONS = ["antique shop", "house", "dark place"]
UNREADABLE = None
REPLIES = [
    ("C. dark place", "C"),
    ("  C. dark place\n", "C"),
    ("C", "C"),
    ("C.", "C"),
    ("C)", "C"),
    ("C:", "C"),
    ("(C)", "C"),
    ("[C]", "C"),
    ("(C). dark place", "C"),
    ("C) dark place", "C"),
    ("C.dark place", "C"),
    ("c. dark place", "C"),
    ("(c)", "C"),
    ("C. Dark Place.", "C"),
    ('C. "dark place"', "C"),
    ('"C. dark place"', "C"),
    ("dark place", "C"),
    ("Dark place.", "C"),
    ("Option C", "C"),
    ("choice (c) dark place", "C"),
    ("**C. dark place**", "C"),
    ("**C.** dark place", "C"),
    ("`C`", "C"),
    ("- C. dark place", "C"),
    ("> * C. dark place", "C"),
    ("C. dark place\n\nA dark place is where one needs a lantern.", "C"),
    ("A lantern gives light.\n\nC. dark place", "C"),
    ("C. dark place\nC. dark place", "C"),
    ("Answer: C", "C"),
    ("**Answer:** C. dark place", "C"),
    ("Answer:\n\n**C**", "C"),
    ("The answer is C.", "C"),
    ("the correct answer is: (C) dark place", "C"),
    ("I think the answer is dark place.", "C"),
    ("A. antique shop sells them.\nB. house has them.\nMy final answer is C.", "C"),
    ("Answer: A\nNo, wait.\nAnswer: C", "C"),
    ("Answer: A, no, answer: C", "C"),
    ("<think>It could be A. Answer: A</think>\nC. dark place", "C"),
    ("Wrong answer: A\nAnswer: C", "C"),
    ("Not sure. Answer: C", "C"),
    ("Answer: C\nIncorrect answer: A", "C"),
    ("B. house", "B"),
    ("Answer: C\nAnswer: house", "B"),
    ("", UNREADABLE),
    (" \n** **\n", UNREADABLE),
    ("c", UNREADABLE),
    ("D", UNREADABLE),
    ("D. dark place", UNREADABLE),
    ("B. dark place", UNREADABLE),
    ("C. a dark place", UNREADABLE),
    ("C. dark place because it is dark", UNREADABLE),
    ("C dark place", UNREADABLE),
    ("A dark place", UNREADABLE),
    ("I", UNREADABLE),
    ("I think C", UNREADABLE),
    ("A or C", UNREADABLE),
    ("A, C", UNREADABLE),
    ("C. dark place, or B. house", UNREADABLE),
    ("A. antique shop\nB. house\nC. dark place", UNREADABLE),
    ("C. dark place\nB. house", UNREADABLE),
    ("C\nhouse", UNREADABLE),
    ("C. dark place\nB. dark place", UNREADABLE),
    ("Answer: A or C", UNREADABLE),
    ("Answer: C\nAnswer: I do not know", UNREADABLE),
    ("The answer is not C.", UNREADABLE),
    ("C. dark place\nAnswer:", UNREADABLE),
    ("Wrong answer: C. dark place", UNREADABLE),
    ("That is not the answer: C", UNREADABLE),
    ("That isn't the right answer: C", UNREADABLE),
    ("Incorrect answer: C. dark place\nA is wrong too.", UNREADABLE),
    ("(\u212a)", UNREADABLE),
    ("\u0130. house", UNREADABLE),
    ("I cannot answer this question.", UNREADABLE),
    ("None of the above", UNREADABLE),
    ("<think>\nC. dark place", UNREADABLE),
    ("C. dark place</think>", UNREADABLE),
]


@pytest.mark.parametrize(("reply", "letter"), REPLIES)
def test_a_reply_names_one_option_or_is_unreadable(reply, letter):
    if letter is UNREADABLE:
        with pytest.raises(UnreadableChoice):
            read_choice(reply, OPTIONS)
    else:
        assert "ABC"[read_choice(reply, OPTIONS)] == letter


@pytest.mark.parametrize(
    ("options", "reply", "expected"),
    [
        # Genotypes differ in letter case only; elsewhere it does not count.
        (["FF", "Ff", "ff"], "Ff", 1),
        (["FF", "Ff", "ff"], "B. ff", UNREADABLE),
        (["FF", "Ff", "other"], "ff", UNREADABLE),
        (["FF", "Ff", "other"], "A. ff", 0),
        # Options that are letters: only letter and text together say which.
        (["B", "A"], "A", UNREADABLE),
        (["B", "A"], "A. B", 0),
        (["A", "B"], "A", 0),
        (["vitamin B", "A and B"], "B. A and B", 1),
        (["The answer is 42", "The answer is 7"], "A. The answer is 42", 0),
        (["x * y", "x + y"], "**A. x * y**", 0),
        (["-5", "5"], "-5", 0),
        (["same", "same"], "B. same", 1),
        (["same", "same"], "same", UNREADABLE),
        (["It is a solid.", "It is a liquid."], "It is a solid", 0),
    ],
)
def test_options_that_look_like_letters_or_like_each_other_are_told_apart_or_unreadable(options, reply, expected):
    if expected is UNREADABLE:
        with pytest.raises(UnreadableChoice):
            read_choice(reply, options)
    else:
        assert read_choice(reply, options) == expected


def test_the_student_sees_lettered_options_after_an_example_and_the_teacher_the_bare_question(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", COS_E[:1])
    example = CosETask(train=DataSource(path)).train_examples()[0]
    system, shot, answer, request = turns(example.prompt)
    assert [turn["role"] for turn in turns(example.prompt)] == ["system", "user", "assistant", "user"]
    assert answer["content"] in shot["content"]
    question, *lines = request["content"].split("\n")
    assert question == "Where does number 0 sleep?"
    assert [line[:3] for line in lines] == ["A. ", "B. ", "C. "]
    assert sorted(line[3:] for line in lines) == ["in a bed", "on a roof", "under a car"]
    assert example.privileged_context == example.completion == example.answer
    assert example.answer in lines
    assert example.answer.endswith("on a roof")
    assert example.teacher_prompt == [system, {"role": "user", "content": question}]
    assert "warm" not in str(example.prompt)
    assert example.fields["explanation"] == "Roofs are warm."


def test_the_place_of_the_answer_follows_from_the_question_and_is_spread(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", COS_E)
    examples = CosETask(eval=DataSource(path)).eval_examples()
    places = [example.answer[0] for example in examples]
    assert min(places.count(letter) for letter in "ABC") >= 6
    # Neither where a row stands nor its id changes the order.
    one = write_rows(tmp_path / "one.jsonl", [{**COS_E[7], "id": "other"}])
    assert CosETask(eval=DataSource(one)).eval_examples()[0].prompt == examples[7].prompt
    # Nor does the Python or the machine: results of other people stay comparable.
    assert "".join(places) == "ACBCBCBACBBAACCBBBBBABABAACBAACAAABACABB"


def test_the_place_of_the_answer_among_the_choices_does_not_say_where_it_is_shown():
    options = ["in a bed", "on a roof", "under a car"]
    shown = [choice_example("Where?", options, right).answer[0] for right in range(3)]
    assert sorted(shown) == ["A", "B", "C"]


def test_the_negative_request_names_a_wrong_option_which_is_readable_and_wrong(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", COS_E)
    task = CosETask(eval=DataSource(path))
    named = set()
    for example in task.eval_examples():
        wrong = example.fields["negative_answer"]
        grade = task.grade(example, wrong)
        assert grade.is_well_formed
        assert not grade.correct
        assert grade.note == f"{wrong}, not {example.answer}"
        assert turns(task.negative_request(example))[-1]["content"] == f"Answer: {wrong}"
        named.add(wrong[3:])
    assert named == {"in a bed", "under a car"}


def test_an_unreadable_reply_is_wrong_and_not_well_formed():
    task = CosETask()
    grade = task.grade(choice_example("Where?", OPTIONS, 1), "I do not know")
    assert (grade.correct, grade.is_well_formed, grade.note) == (False, False, "no option is named")


def test_scienceqa_keeps_the_rows_without_an_image_and_puts_the_hint_first(tmp_path, caplog):
    rows = [{**SCIENCEQA, "image": {"bytes": None, "path": "image.png"}}, SCIENCEQA, {**SCIENCEQA, "hint": ""}]
    task = ScienceQATask(train=DataSource(write_rows(tmp_path / "rows.jsonl", rows)))
    with caplog.at_level("INFO", "unisd"):
        first, second = task.train_examples()
    assert "1 of 3 rows left out: 1 with an image" in caplog.text
    assert turns(first.prompt)[-1]["content"].startswith("Look at the objects.\nWhich is a solid?\nA. ")
    assert turns(second.prompt)[-1]["content"].startswith("Which is a solid?\nA. ")
    assert first.answer[3:] == "a stone"
    assert first.fields["lecture"] == "Solids keep their shape."
    assert "shape" not in str(first.prompt)
    assert task.grade(first, first.answer).correct


def test_scienceqa_reads_rows_whose_images_are_stored_inside_without_decoding_them(tmp_path):
    from datasets import Dataset, Features, Image, Value

    features = Features(
        {"image": Image(), "question": Value("string"), "choices": [Value("string")], "answer": Value("int8")}
    )
    columns = {
        "image": [{"bytes": b"no image at all", "path": None}, None],
        "question": ["What is shown?", "Which is a solid?"],
        "choices": [["a cat", "a dog"], ["juice", "a stone"]],
        "answer": [0, 1],
    }
    Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    (example,) = ScienceQATask(eval=DataSource(str(tmp_path / "rows.parquet"))).eval_examples()
    assert example.answer[3:] == "a stone"


def test_gpqa_is_for_evaluation_only_and_its_gold_answer_survives_line_breaks(tmp_path):
    task = GPQATask(eval=DataSource(write_rows(tmp_path / "rows.jsonl", [GPQA])))
    (example,) = task.eval_examples()
    assert example.answer[3:] == "10^-4 eV"
    assert len(example.fields["options"]) == 4
    assert "exponent" not in str(example)
    assert task.grade(example, example.answer).correct
    with pytest.raises(ValueError, match=r"data.train: gpqa is for evaluation only. Name it under eval.tasks"):
        task.train_examples()


def test_a_gated_data_set_says_what_to_do_where_the_hub_does_not_give_it():
    with pytest.raises(
        ValueError, match=r"^gpqa: Idavidrein/gpqa: neither .* gated: accept its terms .* `hf auth login`"
    ):
        GPQATask().eval_examples()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "elsewhere"}, "row 1: answer: 'elsewhere' is none of the choices"),
        ({"question": " "}, "row 1: question: must be text, got ' '"),
        ({"choices": ["on a roof"]}, "row 1: there must be 2 to 26 options, got 1"),
        ({"choices": ["on a roof", " "]}, "row 1: an option is empty"),
        ({"choices": ["on a roof", None]}, "row 1: choices: must be a list of texts"),
        ({"choices": None}, "row 1: choices: must be a list of texts, got None"),
    ],
)
def test_a_row_that_cannot_be_asked_is_refused_by_number(tmp_path, change, message):
    path = write_rows(tmp_path / "rows.jsonl", [COS_E[0], {**COS_E[1], **change}])
    with pytest.raises(ValueError, match=message):
        CosETask(train=DataSource(path)).train_examples()


def test_a_csv_whose_lists_became_text_is_refused(tmp_path):
    from datasets import Dataset

    Dataset.from_list([SCIENCEQA]).remove_columns("image").to_csv(str(tmp_path / "rows.csv"))
    with pytest.raises(ValueError, match=r"row 0: choices: must be a list of texts, .* give .jsonl or .parquet"):
        ScienceQATask(eval=DataSource(str(tmp_path / "rows.csv"))).eval_examples()


def test_rows_of_another_schema_and_a_split_without_rows_are_refused(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [SCIENCEQA])
    with pytest.raises(ValueError, match=r"no column 'Question', .* Give rows of the schema of Idavidrein/gpqa"):
        GPQATask(eval=DataSource(path)).eval_examples()
    path = write_rows(tmp_path / "images.jsonl", [{**SCIENCEQA, "image": {"path": "a.png"}}])
    with pytest.raises(ValueError, match=r"no row is left for data.train of scienceqa \(1 with an image\)"):
        ScienceQATask(train=DataSource(path)).train_examples()


@needs_data
def test_every_gold_answer_of_cos_e_is_right_and_every_negative_wrong():
    rows = {name: DataSource(str(DATA / "cos_e" / f"{name}.jsonl")) for name in ("train", "validation")}
    task = CosETask(rows["train"], rows["validation"])
    train, evaluation = task.train_examples(), task.eval_examples()
    assert (len(train), len(evaluation)) == (7610, 950)
    for example in [*train[::EVERY], *evaluation]:
        assert task.grade(example, example.answer).correct
        negative = task.grade(example, example.fields["negative_answer"])
        assert negative.is_well_formed
        assert not negative.correct
