"""A whole run from a YAML file: what it learns, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from unisd.cli import main
from unisd.config.load import load_config
from unisd.trainer import SelfDistillTrainer

# Two rows a 2-layer model can learn by heart in a second.
ROWS = [
    {"question": "What is red in German?", "completion": "rot", "answer": "rot"},
    {"question": "What is green in German?", "completion": "gruen", "answer": "gruen"},
]
RUN = """\
model: {name_or_path: MODEL}
data:
  train: {path: rows.jsonl}
  eval: {path: rows.jsonl, grader: exact_match}
  prompt_template: "{question}\\n"
objective: {divergence: none}
components: [{type: cross_entropy}]
rollout: {backend: dataset, max_completion_length: 8}
training:
  output_dir: out
  max_steps: 30
  learning_rate: 1e-2
  per_device_train_batch_size: 2
  logging_steps: 10
  save_strategy: "no"
  report_to: none
  use_cpu: true
"""


@pytest.fixture
def run_folder(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.yaml").write_text(RUN.replace("MODEL", str(tiny_checkpoint)))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_with_overrides_is_a_trainer_that_learns_what_the_grader_checks(run_folder):
    overrides = {
        "training.max_steps": 25,
        "rollout.max_completion_length": 7,
        "peft.r": 4,
        "peft.target_modules": "all-linear",
    }
    trainer = SelfDistillTrainer.from_config("run.yaml", **overrides)
    assert trainer.evaluate()["eval_local_accuracy"] == 0.0
    trainer.train()
    assert trainer.state.global_step == 25
    metrics = trainer.evaluate()
    assert metrics["eval_local_accuracy"] == 1.0
    # gruen and the end of the turn; rot and the end of the turn
    assert metrics["eval_num_tokens"] == 6 + 4
    assert {name.rsplit(".", 2)[-2] for name, value in trainer.model.named_parameters() if value.requires_grad} == {
        "default"
    }
    with pytest.raises(ValueError, match="Overrides belong to a file"):
        SelfDistillTrainer.from_config(load_config("run.yaml"), **overrides)


def test_the_train_command_leaves_a_run_that_can_be_read_and_repeated(run_folder, capsys):
    assert main(["train", "run.yaml", "training.max_steps=30", "training.seed=1"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["pass", "weights", "context", "grad", "yields"]
    out = run_folder / "out"

    report = json.loads((out / "metrics.json").read_text())
    assert report["final"]["eval_local_accuracy"] == 1.0
    assert [entry["step"] for entry in report["history"] if "loss" in entry] == [10, 20, 30]

    assert load_config(out / "unisd.yaml") == load_config("run.yaml", {"training.seed": 1})
    assert (out / "unisd.yaml").read_text() in (out / "README.md").read_text()

    assert "model.embed_tokens.weight" in load_file(out / "model.safetensors")
    assert (out / "tokenizer.json").is_file()
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"


def test_tasks_without_a_data_set_to_evaluate_on_are_still_answered_at_the_end(run_folder):
    overrides = [
        "data.eval=null",
        "eval.tasks=[cmd]",
        "eval.limit=2",
        "training.max_steps=1",
        "data.max_prompt_length=4000",
    ]
    assert main(["train", "run.yaml", *overrides]) == 0
    assert json.loads((run_folder / "out" / "metrics.json").read_text())["final"] == {"eval_cmd_accuracy": 0.0}
