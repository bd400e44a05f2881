"""What can be evaluated: models, adapters, runs and their checkpoints, configurations; and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from unisd.cli import main
from unisd.config.load import load_config
from unisd.evaluate.results import Results
from unisd.evaluate.run import evaluate_checkpoint
from unisd.evaluate.target import base_of, find_target, load_target, moves_the_base
from unisd.train import run

SHORT = ["rollout.max_completion_length=4", "data.max_prompt_length=2000", "data.max_teacher_prompt_length=2000"]
IDS = torch.arange(12)[None]


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def document_of(checkpoint: Path, folder: Path, **sections: Any) -> dict[str, Any]:
    return {
        "model": {"name_or_path": str(checkpoint)},
        "data": {"train": "cmd", "eval": "cmd", "limit": 4, "max_prompt_length": 2000},
        "rollout": {"max_completion_length": 4},
        "eval": {"limit": 2},
        "training": {
            "output_dir": str(folder / "run"),
            "max_steps": 2,
            "save_steps": 1,
            "learning_rate": 0.1,
            "per_device_train_batch_size": 2,
            "seed": 3,
            "use_cpu": True,
            "report_to": "none",
        },
        **sections,
    }


@pytest.fixture(scope="module")
def adapter_run(tmp_path_factory, tiny_checkpoint) -> Path:
    """The output folder of a LoRA run, with a checkpoint of step 1 in it."""
    folder = tmp_path_factory.mktemp("lora")
    peft = {"r": 2, "target_modules": "all-linear"}
    (folder / "run.yaml").write_text(yaml.safe_dump(document_of(tiny_checkpoint, folder, peft=peft)))
    run(load_config(folder / "run.yaml"))
    return folder / "run"


@pytest.fixture(scope="module")
def full_run(tmp_path_factory, tiny_checkpoint) -> Path:
    """The same for full fine-tuning."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "run.yaml").write_text(yaml.safe_dump(document_of(tiny_checkpoint, folder)))
    run(load_config(folder / "run.yaml"))
    return folder / "run"


def test_a_run_with_an_adapter_is_its_base_with_the_adapter_beside_it(adapter_run, tiny_checkpoint, tiny_model):
    target = find_target(str(adapter_run))
    model, tokenizer = load_target(target)
    assert isinstance(model, PeftModel)
    assert target.config.training["seed"] == target.options.seed == 3
    assert len(tokenizer) == 259
    # Not merged: switched off, it is the base bit for bit.
    with model.disable_adapter():
        torch.testing.assert_close(logits_of(model), logits_of(tiny_model()), rtol=0, atol=0)
    assert not torch.allclose(logits_of(model), logits_of(tiny_model()), atol=1e-3)
    earlier, _ = load_target(find_target(str(adapter_run / "checkpoint-1")))
    assert not torch.allclose(logits_of(model), logits_of(earlier), atol=1e-3)
    assert base_of(target, True) is None


def test_a_run_of_all_weights_has_the_model_it_started_from_as_base(full_run, tiny_model, tiny_checkpoint):
    target = find_target(str(full_run))
    model, _ = load_target(target)
    assert isinstance(model, LlamaForCausalLM)
    assert not torch.allclose(logits_of(model), logits_of(tiny_model()), atol=1e-3)
    base = base_of(target, True)
    assert base is not None
    assert base.name == str(tiny_checkpoint)
    torch.testing.assert_close(logits_of(load_target(base)[0]), logits_of(tiny_model()), rtol=0, atol=0)


def test_an_adapter_without_a_run_goes_on_the_model_its_file_names(tmp_path, tiny_model, tiny_checkpoint):
    torch.manual_seed(0)
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(tiny_checkpoint), config)
    adapted.save_pretrained(tmp_path / "adapter")
    target = find_target(str(tmp_path / "adapter"))
    model, tokenizer = load_target(target)
    torch.testing.assert_close(logits_of(model), logits_of(adapted), rtol=0, atol=0)
    assert tokenizer.eos_token == "<|im_end|>"
    assert base_of(target, True) is None


def test_a_start_that_moves_the_base_is_compared_with_a_second_model(tmp_path, tiny_checkpoint):
    config = LoraConfig(r=2, init_lora_weights="pissa", target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(tiny_checkpoint), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(2)
    adapted.save_pretrained(tmp_path / "adapter")
    target = find_target(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits_of(load_target(target)[0]), logits_of(adapted))
    base = base_of(target, True)
    assert base is not None
    assert base.adapter is None
    assert base.config.model.name_or_path == str(tiny_checkpoint)


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ({}, False),
        ({"init_lora_weights": "eva", "bias": "none"}, False),
        ({"init_lora_weights": "pissa_niter_4"}, True),
        ({"init_lora_weights": True, "bias": "all"}, True),
    ],
)
def test_what_an_adapter_leaves_as_it_was(adapter, expected):
    assert moves_the_base(adapter) is expected


def test_biases_that_were_trained_with_the_adapter_stay_when_it_is_off_so_there_is_a_second_model(
    tmp_path, tiny_model, tiny_tokenizer
):
    start = LlamaForCausalLM(LlamaConfig(**{**tiny_model().config.to_dict(), "attention_bias": True}))
    start.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    initial = logits_of(start)
    config = LoraConfig(r=2, bias="lora_only", target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(LlamaForCausalLM.from_pretrained(tmp_path / "base"), config)
    for name, parameter in adapted.named_parameters():
        if name.endswith("bias") and parameter.requires_grad:
            parameter.data += 1
    adapted.save_pretrained(tmp_path / "adapter")
    target = find_target(str(tmp_path / "adapter"))
    model, _ = load_target(target)
    with model.disable_adapter():
        assert not torch.allclose(logits_of(model), initial, atol=1e-3)
    base = base_of(target, True)
    assert base is not None
    torch.testing.assert_close(logits_of(load_target(base)[0]), initial)


def test_a_named_base_is_loaded_as_the_model_it_is_compared_with(tiny_checkpoint, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document_of(tiny_checkpoint, tmp_path)))
    target = find_target(str(tmp_path / "run.yaml"), ["model.dtype=bfloat16", "model.attn_implementation=eager"])
    base = base_of(target, str(tiny_checkpoint))
    assert base is not None
    assert (base.config.model.dtype, base.config.model.attn_implementation) == ("bfloat16", "eager")
    assert base.options.use_cpu is True
    model, _ = load_target(base)
    assert model.dtype == torch.bfloat16


def test_everything_of_a_run_is_measured_against_its_base_and_the_same_twice(adapter_run, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("All that is gold does not glitter.")
    (tmp_path / "more.jsonl").write_text('{"prompt": "Say red."}\n{"prompt": "Say blue."}\n')
    asked: dict[str, Any] = {
        "num_samples": 2,
        "with_teacher": True,
        "retention": True,
        "prompts": str(tmp_path / "more.jsonl"),
        "general_text": str(text),
    }
    first, second = (evaluate_checkpoint(str(adapter_run), SHORT, **asked) for _ in range(2))
    assert {**vars(first), "created": ""} == {**vars(second), "created": ""}
    assert (first.limit, first.seed, first.tasks[0].num_items) == (2, 3, 2)
    assert first.model.adapter == str(adapter_run)
    assert first.config_hash is not None
    assert first.retention is not None
    assert [one.num_prompts for one in first.retention.prompts] == [2, 2]
    assert all(one.tuned_completions.jsd > 0 for one in first.retention.prompts)
    assert first.versions["torch"] == torch.__version__


def test_the_command_line_prints_a_table_and_leaves_a_file(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["eval", str(tiny_checkpoint), "--task", "cmd", "--limit", "3", "--teacher", "--batch-size", "2"]
    assert main([*arguments, "--samples", "2", "--temperature", "0.5", *SHORT]) == 0
    printed = capsys.readouterr().out
    assert "cmd   3  0.0 % [0.0, 56.1]" in printed
    assert "2 samples per prompt at temperature 0.5" in printed
    assert printed.endswith("Saved results.json.\n")
    results = Results.load("results.json")
    assert results.generation.batch_size == 2
    assert len(results.task("cmd").items) == 3
    assert main([*arguments, *SHORT]) == 2
    assert "results.json exists and is not overwritten" in capsys.readouterr().err
    assert main([*arguments, *SHORT, "--output", "results.json"]) == 0
    assert Results.load("results.json").generation.num_samples == 0


def test_a_configuration_is_evaluated_as_the_model_it_starts_from(tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document_of(tiny_checkpoint, tmp_path)))
    output = tmp_path / "deep" / "out.json"
    assert main(["eval", str(tmp_path / "run.yaml"), "training.seed=9", "--output", str(output)]) == 0
    results = Results.load(output)
    assert (results.seed, results.limit, results.model.name_or_path) == (9, 2, str(tiny_checkpoint))
    assert results.tasks[0].name == "cmd"


def test_own_rows_come_from_the_configuration_or_from_the_option(tmp_path, tiny_checkpoint):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Say red.", "answer": "red"}\n' * 3)
    own = {"eval": {"path": str(tmp_path / "rows.jsonl"), "grader": "contains"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document_of(tiny_checkpoint, tmp_path, data=own)))
    # Other rows than the run's own are graded as its own are.
    for tasks in ([], ["local"], [f"local={tmp_path / 'rows.jsonl'}"]):
        results = evaluate_checkpoint(str(tmp_path / "run.yaml"), tasks=tasks, limit=2)
        assert [(task.name, task.num_items) for task in results.tasks] == [("local", 2)]
    # What is advised for rows without a grader.
    advised = ["eval.tasks=null", f"data.eval={{path: {tmp_path / 'rows.jsonl'}, grader: contains}}"]
    for given in (str(tiny_checkpoint), str(tmp_path / "run.yaml")):
        results = evaluate_checkpoint(given, [*SHORT, *advised], limit=2)
        assert [(task.name, task.num_items) for task in results.tasks] == [("local", 2)]
    question = {"id": "q", "question": "Where?", "choices": ["here", "there", "nowhere"], "answer": "there"}
    (tmp_path / "cos_e.jsonl").write_text(json.dumps({**question, "abstractive_explanation": "x"}) + "\n")
    results = evaluate_checkpoint(
        str(tiny_checkpoint), SHORT, tasks=["cmd", f"cos_e={tmp_path / 'cos_e.jsonl'}"], limit=2
    )
    assert [(task.name, task.num_items) for task in results.tasks] == [("cmd", 2), ("cos_e", 1)]


def test_general_text_and_further_prompts_need_no_task(tmp_path, tiny_checkpoint, capsys):
    (tmp_path / "text.txt").write_text("All that is gold does not glitter.")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Say red."}\n')
    files = ["--general-text", str(tmp_path / "text.txt"), "--prompts", str(tmp_path / "rows.jsonl")]
    command = ["eval", str(tiny_checkpoint), *SHORT, *files, "--retention", str(tiny_checkpoint)]
    assert main([*command, "--output", str(tmp_path / "out.json")]) == 0
    results = Results.load(tmp_path / "out.json")
    assert results.tasks == ()
    assert results.general_text is not None
    assert results.general_text.perplexity == results.general_text.base_perplexity is not None
    assert results.retention is not None
    assert [(one.name, one.num_prompts) for one in results.retention.prompts] == [("rows.jsonl", 1)]
    assert "correct" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}"], "nothing says which task to evaluate"),
        (["{model}", "--task", "cmdd"], "no task 'cmdd'. Did you mean 'cmd'?"),
        (["{model}", "--task", "cmd", "--limit", "0"], "--limit must be at least 1"),
        (["{model}", "--task", "cmd", "--task", "cmd"], "'cmd' is given twice"),
        (["{model}", "--task", "cmd", "--retention"], "which is not known here. Name it: --retention owner/name"),
        (["{model}", "--task", "cmd", "--retention", "no/such/model/here"], "no folder here"),
        (["{model}", "--task", "cmd", "--retention", "rollout.top_k=1"], "Write overrides before --retention"),
        (["{half}", "--task", "local={rows}"], "nothing says how its answers are graded. Give eval.tasks=null and"),
        (
            ["{model}", "data.eval=cmd", "--task", "local={rows}"],
            "and data.eval=cmd both say which rows to evaluate on",
        ),
        (["{model}", "--task", "cmd", "--temperature", "0.5"], "without --samples N nothing is sampled"),
        (["{model}", "--general-text", "{rows}", "--teacher"], "are of a task's prompts. Give --task as well"),
        (["{model}", "--task", "cmd", "data.max_prompt_length=8"], "row 0: The view 'prompt' has"),
        (["{model}", "--task", "cmd", "--prompts", "none.jsonl"], "--prompts: none.jsonl: no such file"),
        (["{model}", "--task", "cmd", "--prompts", "{rows}"], "serve retention only"),
        (["{model}", "--task", "cmd", "--general-text", "none.txt"], "none.txt: cannot be read as UTF-8 text"),
        (["{model}", "--task", "cmd", "--samples", "2", "--temperature", "0"], "one answer, 2 times"),
        (["{model}", "--task", "cmd", "--samples", "2", "--temperature", "hot"], "must be a number, got 'hot'"),
        (["{empty}", "--task", "cmd"], "a folder without config.json"),
        (["{stopped}"], "the run has left no model. Train to the end"),
        (["{broken}"], "adapter_config.json: cannot be read as JSON"),
        (["{orphan}"], "base_model_name_or_path is missing"),
        (["{half}", "--task", "cmd"], "the adapter cannot be put on"),
        (["nowhere.yaml"], "nowhere.yaml: there is no such file"),
    ],
)
def test_faults_end_with_one_line_and_no_file(tmp_path, tiny_checkpoint, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "stopped", "broken", "orphan", "half"):
        (tmp_path / name).mkdir()
    (tmp_path / "stopped" / "unisd.yaml").write_text(f"model: {{name_or_path: {tiny_checkpoint}}}")
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    (tmp_path / "orphan" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    half = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(tiny_checkpoint)}
    (tmp_path / "half" / "adapter_config.json").write_text(json.dumps(half))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Say red."}\n')
    places = {name: str(tmp_path / name) for name in ("empty", "stopped", "broken", "orphan", "half")}
    given = [word.format(model=tiny_checkpoint, rows=tmp_path / "rows.jsonl", **places) for word in arguments]
    assert main(["eval", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()
