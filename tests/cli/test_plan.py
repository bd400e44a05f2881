"""`unisd plan`: what a run needs, from a checkpoint that has no weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unisd.cli import main

ROWS = [{"prompt": "a" * length, "privileged_context": "b"} for length in (10, 20, 30, 40, 1000)]
RUN = """\
model: {name_or_path: model, dtype: bfloat16}
data: {train: {path: rows.jsonl}, max_prompt_length: 35, max_teacher_prompt_length: 100, on_overflow: drop}
rollout: {max_completion_length: 16, temperature: 0.5}
training: {output_dir: out, per_device_train_batch_size: 4, use_cpu: true}
"""


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`plan("key=value", ...)`: what the command prints, by paragraph."""
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str) -> list[str]:
        assert main(["plan", "run.yaml", *overrides]) == 0
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().out.split("\n\n")

    return run


def test_the_plan_names_passes_memory_prompt_lengths_and_warnings(plan):
    passes, loss, memory, lengths, warnings = plan()
    assert [line.split()[:4] for line in passes.splitlines()] == [
        ["pass", "weights", "context", "grad"],
        ["1", "student", "prompt", "yes"],
        ["2", "teacher", "privileged", "no"],
    ]
    assert loss.splitlines() == ["loss", "  forward_kl", "  divergence_clip {ceiling: 10.0, quantile: null}"]
    assert memory.startswith("memory per process")
    assert "sum" in memory.splitlines()[-1]
    assert "prompt: 5 rows, tokens min 10, median 30, 95 % 1000, max 1000; budget 35, 2 over" in lengths
    # Shown twice, a teacher's view is three prompts long, and "b" and its spaces.
    assert "privileged: 5 rows, tokens min 38, median 98, 95 % 3008, max 3008; budget 100, 2 over" in lengths
    assert "#" in lengths
    assert "2 views 'prompt' are over their budget; data.on_overflow: drop" in warnings
    assert "full fine-tuning with teacher base keeps a second copy" in warnings


def test_the_memory_is_that_of_the_model_in_its_dtype_and_of_what_is_trained(plan):
    def mebibytes(name: str, *overrides: str) -> float:
        # A vocabulary of 259 and width 32 round to nothing, so the model is read as a larger one.
        (line,) = [line for line in plan(*overrides)[2].splitlines() if line.strip().startswith(name)]
        return float(line.split()[-2].replace(",", ""))

    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(
        json.dumps({**config, "hidden_size": 1024, "vocab_size": 32768, "head_dim": 8})
    )
    whole = mebibytes("weights")
    # Embedding and head: 2 x 32768 x 1024 numbers of two bytes.
    assert whole == pytest.approx(128, rel=0.1)
    assert mebibytes("weights", "model.dtype=float32") == pytest.approx(2 * whole, rel=0.02)
    assert mebibytes("AdamW state") == pytest.approx(2 * whole, rel=0.02)
    lora = ["peft.r=8", "peft.target_modules=all-linear"]
    assert mebibytes("AdamW state", *lora) < 0.1 * whole
    assert mebibytes("teacher copy") == pytest.approx(whole, rel=0.02)
    assert mebibytes("teacher copy", *lora) == 0
    assert mebibytes("teacher copy", "teacher.kind=live") == 0
    more_tokens = mebibytes("states", "rollout.max_completion_length=1024")
    assert more_tokens == pytest.approx(2 * 4 * 1024 * 1024 * 4 / 2**20)
    # One buffer of logits for the student and one for the teacher, as many tokens as fit 96 MiB.
    long = "rollout.max_completion_length=1024"
    assert mebibytes("loss, 384 tokens", long) == 2 * 384 * 32768 * 4 / 2**20
    assert mebibytes("loss, 768 tokens", long, "objective.divergence=none", "components=[{type: cross_entropy}]") == 96
    assert mebibytes("loss, 384 tokens", long, "objective.support=topk", "objective.k=9") == 8 * 384 * 32768 * 4 / 2**20


def test_a_run_that_only_imitates_needs_no_teacher_and_may_be_biased(plan):
    passes, loss, _, _, warnings = plan("objective.divergence=none", "components=[{type: cross_entropy}]")
    assert "teacher" not in passes
    assert loss.splitlines() == ["loss", "  cross_entropy {coefficient: 1.0, weighted: false}"]
    assert "sampled is unbiased" not in warnings
    sampled = ["objective.divergence=reverse_kl", "objective.support=sampled"]
    assert "support: sampled is unbiased only where" in plan(*sampled)[-1]
    assert "support: sampled is unbiased" not in plan(*sampled, "rollout.temperature=1.0")[-1]
