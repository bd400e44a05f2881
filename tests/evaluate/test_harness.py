"""lm-eval on the live model, where it is installed: its own task types, and ours as its plugins."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch

from tests.evaluate.scene import KeyTask, options_in
from unisd.evaluate.harness import _manager, check_harness, finite_numbers, harness_results
from unisd.evaluate.run import evaluate
from unisd.tasks.cmd import CmdTask

IS_INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_lm_eval = pytest.mark.skipif(not IS_INSTALLED, reason="lm-eval is not installed (extra eval)")


@needs_lm_eval
def test_a_task_of_ours_gets_the_same_grades_inside_lm_eval(tiny_model, tiny_tokenizer, tmp_path):
    model, options = tiny_model().train(), options_in(tmp_path)
    questions = KeyTask().questions
    answers = [item.completion for item in evaluate(model, tiny_tokenizer, [KeyTask()], options=options).tasks[0].items]
    key = dict(zip(questions[:3], answers[:3], strict=True))
    state = torch.get_rng_state()
    found = harness_results(model, tiny_tokenizer, [KeyTask(key)], options=options)
    assert found["unisd_key"]["acc,none"] == 0.75
    assert found["unisd_key"]["well_formed,none"] == sum("?" not in answer for answer in answers) / 4
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@needs_lm_eval
def test_a_conversation_reaches_the_model_as_in_training(tiny_model, tiny_tokenizer, tmp_path):
    options = options_in(tmp_path, max_prompt_length=2000)
    found = harness_results(tiny_model(), tiny_tokenizer, [CmdTask()], options=options, limit=2)
    assert found["unisd_cmd"]["acc,none"] == 0.0


def test_a_metric_that_is_no_number_does_not_keep_the_others_from_being_saved():
    metrics = {"alias": "sum", "acc,none": 0.5, "acc_stderr,none": "N/A", "rouge,none": math.nan, "sample_len": 3}
    assert finite_numbers(metrics) == {"acc,none": 0.5, "sample_len": 3.0}


@needs_lm_eval
def test_a_task_that_lm_eval_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"no task 'arc_esy'\. Did you mean 'arc_easy'\?"):
        check_harness(["arc_esy"])


@needs_lm_eval
def test_a_task_whose_data_cannot_be_had_is_refused_before_anything_is_computed(tiny_tokenizer, tmp_path, monkeypatch):
    def unreachable(names):
        raise ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub")

    monkeypatch.setattr(_manager(), "load", unreachable)
    with pytest.raises(ValueError, match=r"cannot load arc_easy \(ConnectionError: Couldn't reach 'allenai/ai2_arc'"):
        evaluate(None, tiny_tokenizer, [KeyTask()], options=options_in(tmp_path), harness=["arc_easy"])


@pytest.mark.skipif(IS_INSTALLED, reason="lm-eval is installed")
def test_without_lm_eval_the_extra_is_named_before_anything_is_computed(tiny_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"pip install -e '\.\[eval\]'"):
        # No model: it is not looked at.
        evaluate(None, tiny_tokenizer, [KeyTask()], options=options_in(tmp_path), harness=["arc_easy"])
