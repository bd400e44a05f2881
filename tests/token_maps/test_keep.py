"""What `unisd train` leaves for the report, and that leaving it changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.study.studies import RECIPE
from unisd.config.load import load_config
from unisd.config.schema import RunConfig
from unisd.token_maps.record import EXAMPLES_FILE, SCHEMA_VERSION, KeptExamples
from unisd.train import run


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> RunConfig:
    recipe = {"model": {"name_or_path": str(tiny_checkpoint)}, **RECIPE}
    recipe["training"] = {**RECIPE["training"], "output_dir": str(tmp_path / "run")}
    (tmp_path / "run.yaml").write_text(json.dumps(recipe))
    return load_config(tmp_path / "run.yaml")


def at(config: RunConfig, folder: Path, *, num_examples: int = 1) -> RunConfig:
    """The same run in another folder."""
    training = {**config.training, "output_dir": str(folder)}
    return replace(config, training=training, eval=replace(config.eval, examples=num_examples))


def test_answers_before_and_after_are_kept_and_keeping_them_changes_nothing(config, tmp_path):
    kept_run = run(at(config, tmp_path / "kept", num_examples=3))
    plain_run = run(at(config, tmp_path / "plain", num_examples=0))
    assert not (tmp_path / "plain" / EXAMPLES_FILE).exists()
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("kept", "plain"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    kept = KeptExamples.load(tmp_path / "kept")
    assert (kept.source, kept.num_steps, len(kept.examples)) == ("held-out", 2, 3)
    first = kept.examples[0]
    tokenizer: Any = kept_run.processing_class
    prompt = tokenizer(first.prompt, add_special_tokens=False)["input_ids"]
    (after,) = kept_run.generate([prompt], seed=0, greedy=True)
    with kept_run.model.disable_adapter():
        (before,) = kept_run.generate([prompt], seed=0, greedy=True)
    assert first.after.text == tokenizer.decode(after.ids, skip_special_tokens=True)
    assert first.before.text == tokenizer.decode(before.ids, skip_special_tokens=True)
    assert first.request in first.prompt
    gold = "book_room(room='Willow', hour=14)"
    assert gold in first.privileged
    assert gold not in first.prompt
    # The task grades: a random model is wrong, and the grader says why.
    assert first.after.is_correct is False
    assert first.after.note
    assert len(first.token_map.tokens) == len(after.ids)
    metrics = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert metrics["plan"] == plain_run.plan.text()
    assert metrics["inert"] == plain_run.diagnostics.inert


def test_without_held_out_data_the_prompts_are_those_of_training(config, tmp_path):
    without = replace(config, data=replace(config.data, eval=None), eval=replace(config.eval, tasks=()))
    trainer = run(at(without, tmp_path / "run"))
    kept = KeptExamples.load(tmp_path / "run")
    assert kept.source == "training"
    assert kept.examples[0].request == trainer.train_dataset[0].prompt[-1]["content"]
    assert kept.examples[0].after.is_correct is None


def test_a_file_of_another_version_or_a_cut_one_is_refused(config, tmp_path):
    run(at(config, tmp_path / "run"))
    path = tmp_path / "run" / EXAMPLES_FILE
    text = path.read_text()
    path.write_text(text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(ValueError, match="schema_version is 99, but this unisd reads 1"):
        KeptExamples.load(tmp_path / "run")
    path.write_text(text[:100])
    with pytest.raises(ValueError, match="examples.json: cannot be read"):
        KeptExamples.load(tmp_path / "run")
