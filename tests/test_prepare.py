"""`unisd prepare` and the runs that find what it built, with a tiny model that really writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from unisd import prepare as preparing
from unisd.cli import main
from unisd.config.errors import ConfigError
from unisd.config.load import load_config
from unisd.contexts.demonstration import build_views
from unisd.objects import eval_examples, train_examples
from unisd.prepare import with_cheap_contexts
from unisd.rollout.context_writer import ContextWriter
from unisd.trainer import SelfDistillTrainer

GRADER = """\
from unisd.tasks.task import Grade


def parity(completion, answer):
    # Right for half of what a random model writes, unreadable for a sixth of it.
    return Grade(len(completion) % 2 == 0, is_well_formed=len(completion) % 3 != 0)


def two_views(example):
    hint = [{"role": "user", "content": "Hint?"}, {"role": "assistant", "content": "No."}]
    return [f"first of {example.answer}", hint]


def wrong(example):
    return "seventeen" if example.answer != "5" else None


limit = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model, tiny_tokenizer) -> Path:
    """The working directory of a run: a model of few words, twelve sums, a module of the user's."""
    model = tiny_model()
    with torch.no_grad():
        state = model.model(torch.tensor([tiny_tokenizer("12 + 1?")["input_ids"]])).last_hidden_state[0].mean(0)
        # The end of a sequence gets a logit of 4 where the others lie around 0.
        model.lm_head.weight[tiny_tokenizer.eos_token_id] = 4 * state / state.square().sum()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    for name, numbers in (("train", range(12)), ("eval", range(20, 24))):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"{n} + 1?"}],
                "answer": f"{n + 1}",
                "privileged_context": f"{n + 1}",
            }
            for n in numbers
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "my_contexts.py").write_text(GRADER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("UNISD_CACHE", str(tmp_path / "cache"))
    return tmp_path


def written(folder: Path, **contexts: dict[str, Any]) -> str:
    """A run with these contexts and a component that reads each."""
    readers = {"auxiliary": {"type": "agreement"}, "negative": {"type": "contrastive"}}
    document = {
        "model": {"name_or_path": "model"},
        "data": {
            "train": {"path": "train.jsonl"},
            "eval": {"path": "eval.jsonl", "grader": "my_contexts:parity"},
        },
        "contexts": contexts,
        "components": [readers[name] for name in contexts],
        "rollout": {"max_completion_length": 24},
        "training": {
            "output_dir": "runs/one",
            "max_steps": 1,
            "per_device_train_batch_size": 2,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
        },
        "eval": {"tasks": []},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    return "run.yaml"


def views_of(path: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    trainer = SelfDistillTrainer.from_config(path)
    demonstration = trainer.demonstration
    both = (trainer.train_dataset, trainer.eval_dataset)
    train, evaluation = ([build_views(one, demonstration) for one in rows] for rows in both)
    return train, evaluation


def test_a_run_after_prepare_builds_nothing_and_sees_what_was_verified(folder, capsys, monkeypatch):
    path = written(folder, auxiliary={"type": "few_shot"}, negative={"type": "verified"})
    assert main(["prepare", path]) == 0
    printed = capsys.readouterr().out
    assert "train: auxiliary (few_shot): 12 of 12 rows" in printed
    assert f"cache: {folder / 'cache' / 'contexts'}" in printed

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("the model was asked again")

    monkeypatch.setattr(ContextWriter, "__call__", refuse)
    trainer = SelfDistillTrainer.from_config(path)
    trainer.train()
    config = load_config(path)
    task = preparing._grading_task(config, "train")
    num_negatives = 0
    for example in trainer.train_dataset:
        if example.negative_context is not None:
            grade = task.grade(example, example.negative_context)
            assert (grade.correct, grade.is_well_formed) == (False, True)
            num_negatives += 1
    assert num_negatives > 0
    assert f"train: negative (verified): {num_negatives} of 12 rows" in printed
    assert main(["prepare", path]) == 0
    assert "found, once built in" in capsys.readouterr().out


def test_another_model_does_not_find_the_negatives_of_this_one(folder, tiny_model, capsys):
    path = written(folder, negative={"type": "verified"})
    assert main(["prepare", path]) == 0
    assert len(list((folder / "cache" / "contexts").iterdir())) == 2
    tiny_model(seed=1).save_pretrained(folder / "model")
    assert main(["prepare", path]) == 0
    assert "found" not in capsys.readouterr().out
    assert len(list((folder / "cache" / "contexts").iterdir())) == 4


def test_training_goes_the_same_way_whether_the_contexts_are_built_or_found(folder):
    path = written(folder, negative={"type": "verified"})
    losses = []
    for _ in range(2):
        trainer = SelfDistillTrainer.from_config(path)
        losses.append(trainer.train().training_loss)
    assert losses[0] == losses[1]


def test_held_out_examples_are_shown_training_examples(folder):
    train, evaluation = views_of(written(folder, auxiliary={"type": "few_shot", "count": 3}))
    assert {name for view in (*train, *evaluation) for name in view} == {
        "prompt",
        "privileged",
        "auxiliary_0",
        "auxiliary_1",
        "auxiliary_2",
    }
    requests = [view["prompt"][-1]["content"] for view in train]
    for view in evaluation:
        for number in range(3):
            shown, answer, request = view[f"auxiliary_{number}"]
            assert shown["content"] in requests
            assert answer["content"] == str(int(shown["content"].split()[0]) + 1)
            assert request == view["prompt"][-1]


def test_functions_of_the_user_fill_both_kinds(folder):
    path = written(folder, auxiliary={"type": "my_contexts:two_views"}, negative={"type": "my_contexts:wrong"})
    train, evaluation = views_of(path)
    assert [("negative" in view) for view in train] == [n != 4 for n in range(12)]
    first, second = evaluation[0]["auxiliary_0"], evaluation[0]["auxiliary_1"]
    assert {"role": "assistant", "content": "first of 21"} in first
    assert [turn["content"] for turn in second] == ["Hint?", "No.", "20 + 1?"]


def test_instructions_of_the_model_stand_in_the_request_of_other_examples(folder, tiny_model):
    # Random text of 96 bytes often passes for an instruction.
    tiny_model().save_pretrained(folder / "model")
    train, evaluation = views_of(written(folder, auxiliary={"type": "induction", "include_privileged": True}))
    for view in (*train, *evaluation):
        (*own, first), (*same, second) = view["auxiliary_0"], view["auxiliary_1"]
        assert own == same == view["privileged"][:-1]
        ending = "\n\n" + view["prompt"][-1]["content"]
        assert first["content"].endswith(ending)
        assert second["content"].endswith(ending)
        assert first != second


def test_a_model_that_writes_no_instruction_stops_the_run_with_the_counts(folder, capsys, monkeypatch):
    monkeypatch.setattr(preparing, "MAX_INSTRUCTION_TOKENS", 2)
    assert main(["prepare", written(folder, auxiliary={"type": "induction", "num_shots": 2})]) == 2
    message = capsys.readouterr().err
    assert "0 usable instructions, count is 2" in message
    assert "groups of 2 demonstrations (28 too short)" in message


def test_a_run_without_contexts_has_nothing_to_build(folder, capsys):
    (folder / "run.yaml").write_text("model: {name_or_path: model}\ndata: {train: cmd, limit: 2}")
    assert main(["prepare", "run.yaml"]) == 0
    assert "nothing to build" in capsys.readouterr().out
    assert main(["prepare", "run.yaml", "data.train=null"]) == 2
    assert "data.train is missing" in capsys.readouterr().err


def test_plan_shows_the_passes_and_says_what_is_not_built(folder, capsys):
    path = written(folder, auxiliary={"type": "few_shot", "count": 3}, negative={"type": "verified"})
    assert main(["plan", path]) == 0
    printed = capsys.readouterr().out
    assert "3-5   teacher  auxiliary x3  no    auxiliary_logp" in printed
    assert "auxiliary_2: 12 rows" in printed
    assert "not measured before it is built: negative (verified)" in printed
    gate = {"gate": {"fraction": 0.5}}
    assert main(["plan", written(folder, auxiliary={"type": "induction", **gate})]) == 0
    printed = capsys.readouterr().out
    assert "3-4   teacher  auxiliary x2  no    auxiliary_logp  (50 % of the sequences: gate sampler_nll)" in printed
    assert "not measured before it is built: auxiliary (induction)" in printed
    assert not (folder / "cache").exists()


def test_what_a_plan_measures_is_what_training_sees(folder):
    config = load_config(written(folder, auxiliary={"type": "few_shot"}))
    cheap, left_out = with_cheap_contexts(config, train_examples(config))
    full, _ = preparing.with_contexts(
        config, train_examples(config), pool=train_examples(config), task=None, model=None, tokenizer=None
    )
    assert (cheap, left_out) == (full, [])
    assert eval_examples(config)[0].auxiliary_contexts == ()


@pytest.mark.parametrize(
    ("contexts", "overrides", "message"),
    [
        ({"negative": {"type": "my_contexts:rong"}}, {}, "contexts.negative.type: module 'my_contexts' has no 'rong'"),
        ({"auxiliary": {"type": "my_contexts:limit"}}, {}, "contexts.auxiliary.type: my_contexts:limit is not a func"),
        ({"auxiliary": {"type": "no_such:fn"}}, {}, "contexts.auxiliary.type: 'no_such' of 'no_such:fn' cannot be"),
        ({"negative": {"type": "verified"}}, {"data.eval": None}, "contexts.negative.type: verified needs a grader"),
        (
            {"auxiliary": {"include_privileged": True}, "privileged": {"style": "message"}},
            {},
            "contexts.auxiliary.include_privileged shows the demonstration as turns",
        ),
        ({"auxiliary": {"retriever": "bm25"}}, {}, "contexts.auxiliary.retriever is for select: retrieval"),
        ({"auxiliary": {"type": "column", "num_shots": 2}}, {}, "contexts.auxiliary.num_shots is for type: few_shot"),
        ({"auxiliary": {"type": "column", "seed": 2}}, {}, "contexts.auxiliary.seed is for type: few_shot"),
    ],
)
def test_sections_that_cannot_be_built_are_refused_before_anything_is_loaded(folder, contexts, overrides, message):
    privileged = {name: contexts.pop(name) for name in ("privileged",) if name in contexts}
    path = written(folder, **contexts)
    document = yaml.safe_load(Path(path).read_text())
    document["contexts"] |= privileged
    Path(path).write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides)
