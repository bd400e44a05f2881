"""Where a result comes from."""

from __future__ import annotations

import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from unisd.evaluate.provenance import facts_of, git_hash, now

ROOT = Path(__file__).parents[2]


def test_the_commit_is_that_of_this_checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no commit to name")
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert git_hash() in (commit, f"{commit}-dirty")


def test_the_time_is_in_utc():
    assert datetime.fromisoformat(now()).utcoffset() == timedelta(0)


def test_a_live_model_is_described_by_what_it_remembers(tiny_model):
    facts = facts_of(tiny_model())
    assert (facts.name_or_path, facts.adapter, facts.dtype, facts.device) == (
        "LlamaForCausalLM",
        None,
        "float32",
        "cpu",
    )
    adapted = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    assert facts_of(adapted, name_or_path="a/b").description == "a/b with an adapter in memory"
    assert facts_of(adapted, name_or_path="a/b", adapter="runs/x").description == "a/b with the adapter runs/x"
