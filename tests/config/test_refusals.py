"""Each fault in a configuration is one message: where, what was given, what is allowed, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from unisd.config.check import check_training
from unisd.config.errors import ConfigError
from unisd.config.load import load_config
from unisd.objects import arguments_of

MODEL = "model: {name_or_path: owner/name}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_prompt_length: 3", "'max_prompt_length' is not a section of a run. It belongs to section data."),
        (
            "rollout: {max_prompt_length: 3}",
            "'max_prompt_length' is not an option of rollout. It belongs to section data.",
        ),
        ("rollout: 3", "rollout must be a mapping of options, got 3. Options: backend"),
        ("rollout: {temperature: true}", "rollout.temperature must be a number, got true."),
        ("rollout: {top_k: 2.5}", "rollout.top_k must be an integer, got 2.5."),
        ("rollout: {temperature: .nan}", "rollout.temperature must be a number, got nan."),
        ("rollout: {temperature: -1}", "rollout.temperature must be 0 (greedy) or positive, got -1.0."),
        ("rollout: {on: 1}", "rollout: a key must be text, got true."),
        (
            "model: {name_or_path: a/b}",
            "line 2, column 1: not readable as YAML: the key 'model' was given already in line 1",
        ),
        ("teacher: &x {kind: live}", "anchors and aliases ('x') are not taken; write the value out"),
        ("training: {temperature: 1}", "It belongs to section rollout or section objective."),
        ("training: {eval_strategy: no}", "one of no, steps, epoch, got false. YAML reads bare yes, no, on and off"),
        ("training: {lr_scheduler_type: cosin}", "must be one of linear, cosine"),
        ("peft: {rank: 4}", "peft: 'rank' is not an option of peft.LoraConfig. Options: task_type"),
        ("peft: {r: 0}", "peft.r must be at least 1, got 0."),
        ("peft: {peft_type: IA3}", "'peft_type' is not an option of peft.LoraConfig"),
        ("teacher: {decay: 0.9}", "'decay' is not an option of kind: base. It belongs to kind: ema."),
        ("teacher: {kind: emma}", "teacher.kind must be one of base, ema, live, got 'emma'. Did you mean 'ema'?"),
        ("teacher: {kind: ema, decay: 2}", "teacher.decay must lie between 0 and 1, got 2.0."),
        ("objective: {k: 5}", "objective.k belongs to support: topk, but support is full."),
        ("objective: {divergence: none}", "there is nothing to train on. Add a loss"),
        (
            "objective: {divergence: none}\ncomponents: [{type: cross_entropy}, {type: divergence_clip, ceiling: 1}]",
            "components[1] (divergence_clip) changes the main term, but objective.divergence is none.",
        ),
        (
            "objective: {divergence: reverse_kl, support: sampled}\ncomponents: [{type: divergence_clip, ceiling: 1}]",
            "components[0] (divergence_clip) cannot clip objective.support: sampled",
        ),
        ("components: [{type: clip}]", "components[0].type: there is no component 'clip'. Allowed: "),
        (
            "components: [{type: divergence_clip, ceiling: 0}]",
            "components[0]: divergence_clip.ceiling must be positive",
        ),
        ("components: [{type: token_filter}]", "components[0].fraction is missing."),
        ("components: [divergence_clip]", "components[0] must be a mapping with a type, got 'divergence_clip'."),
        ("components: {type: token_filter}", "components must be a list"),
        ("contexts: {privileg: {}}", "'privileg' is not an option of contexts. Did you mean 'privileged'? Options: "),
        (
            "contexts: {privileged: {style: turn}}",
            "contexts.privileged.style must be one of turns, message, got 'turn'.",
        ),
        ("data: {train: cmdd}", "data.train: there is no task 'cmdd'. Did you mean 'cmd'? Allowed: cmd, cos_e, "),
        ("data: {train: nothing}", "tool_alpaca, or {path: train.jsonl} for data of your own."),
        ("data: {train: {task: cose, path: a.jsonl}}", "data.train: there is no task 'cose'. Did you mean 'cos_e'?"),
        ("data: {train: {task: cmd, path: a.jsonl}}", "data.train: cmd makes its own rows and takes no path."),
        ("data: {train: {task: cos_e}}", "data.train.path is missing."),
        (
            "data: {train: cmd, eval: {task: cos_e, path: a.jsonl, grader: contains}}",
            "data.eval.grader: cos_e has its own grader, got 'contains'.",
        ),
        (
            "data: {train: {task: cos_e, path: a.jsonl}, prompt_template: '{question}'}",
            "data.prompt_template builds a column of your own data",
        ),
        ("data: {train: gpqa}", "data.train: gpqa is for evaluation only. Name it under eval.tasks"),
        (
            "data: {train: {task: humaneval, path: a.jsonl}, allow_code_execution: true}",
            "data.train: humaneval is for evaluation only.",
        ),
        ("data: {train: mbpp}", "data.train: mbpp grades by running code that the model writes, on this machine."),
        (
            "data: {train: cmd}\neval: {tasks: [cmd, humaneval]}",
            "eval.tasks[1]: humaneval grades by running code that the model writes, on this machine. It runs in a "
            "sandbox without network, files or your environment, but no sandbox is perfect. To agree, set "
            "data.allow_code_execution: true, or give `unisd eval` --allow-code-execution.",
        ),
        ("data: {train: {pth: x}}", "data.train: 'pth' is not an option of data.train. Did you mean 'path'?"),
        ("data: {train: {path: a.jsonl, grader: nope}}", "'nope' is not a grader"),
        ("data: {train: {path: a.jsonl}, prompt_template: '{q'}", "data.prompt_template: '{q' is not a template"),
        ("data: {train: cmd, prompt_template: '{q}'}", "data.prompt_template builds a column of your own data"),
        ("eval: {tasks: [mmd]}", "eval.tasks[0]: there is no task 'mmd'."),
        ("eval: {every: 5}", "eval.every is 5, but data.eval is missing."),
        ("data: {eval: cmd}\neval: {every: 5}\ntraining: {eval_strategy: epoch}", "two answers to when to evaluate"),
        ("data: {eval: cmd}\neval: {every: 5}\ntraining: {eval_steps: 2}", "training.eval_steps is 2.0: two"),
        ("data: {eval: cmd}\neval: {every: 5}\ntraining: {eval_strategy: 'no'}", "training.eval_strategy is no: two"),
        ("rollout: {backend: dataset, on_policy_fraction: 0.5}", "with backend: dataset nobody samples"),
        ("rollout: {backend: dataset, num_generations: 2}", "with backend: dataset each row has one completion"),
        (
            "rollout: {num_loss_tokens_to_skip: 9, max_completion_length: 9}",
            "leaves no token of max_completion_length (9)",
        ),
    ],
)
def test_a_fault_is_named(tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL + text)
    with pytest.raises(ConfigError) as refusal:
        load_config(path)
    assert message in str(refusal.value)


@pytest.mark.parametrize("target", ["[q_proj, lm_head]", "[model.lm_head]", "'.*head'"])
def test_an_ema_teacher_with_an_adapted_head_is_refused(tmp_path, target):
    path = tmp_path / "run.yaml"
    path.write_text(f"{MODEL}peft: {{target_modules: {target}}}")
    with pytest.raises(ConfigError, match="two heads at once"):
        load_config(path, ["teacher.kind=ema"])
    load_config(path)
    load_config(path, ["teacher.kind=ema", "peft.target_modules=all-linear"])
    with pytest.raises(ConfigError, match=r"peft.target_modules: '\*proj' is not a pattern"):
        load_config(path, {"peft.target_modules": "*proj"})


def test_a_model_path_that_holds_no_model_is_refused(tmp_path, tiny_checkpoint):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL)
    for given, message in [
        ("./missing", "'./missing' is no folder here"),
        (str(tmp_path / "missing"), "is no folder here"),
        ("a/b/c", "cannot be a hub id"),
        (str(tmp_path), "is a folder without config.json"),
        (str(path), "is a file"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_config(path, {"model.name_or_path": given})
    assert load_config(path, {"model.name_or_path": str(tiny_checkpoint)}).model.name_or_path == str(tiny_checkpoint)


def test_the_best_of_the_checkpoints_that_eval_every_evaluates_can_be_kept(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL + "data: {train: cmd, eval: cmd}")
    keep_best = {"training.load_best_model_at_end": True, "training.save_steps": 20, "training.use_cpu": True}
    config = load_config(path, {**keep_best, "eval.every": 20, "training.output_dir": str(tmp_path / "out")})
    check_training(config)
    arguments = arguments_of(config)
    assert (arguments.eval_strategy, arguments.eval_steps) == ("steps", 20)
    with pytest.raises(ConfigError, match="^training: .*requires the save and eval strategy to match"):
        check_training(load_config(path, keep_best))


def test_training_refuses_an_output_folder_in_use_unless_it_resumes(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL + "data: {train: cmd}")
    config = load_config(path, {"training.output_dir": str(tmp_path / "out")})
    check_training(config)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="There is no checkpoint in .*out. Start without --resume"):
        check_training(config, resume=True)
    with pytest.raises(ConfigError, match="there is no folder 'checkpoint-9'"):
        check_training(config, resume="checkpoint-9")
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not empty. Resume with --resume"):
        check_training(config)
    check_training(config, resume=True)
    check_training(config, resume=str(tmp_path / "out" / "checkpoint-2"))


def test_only_the_first_process_minds_that_the_output_folder_is_in_use(tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL + "data: {train: cmd}")
    config = load_config(path, {"training.output_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match="is not empty"):
        check_training(config)
    monkeypatch.setenv("RANK", "1")
    check_training(config)


def test_training_refuses_missing_data_and_arguments_that_contradict_each_other(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MODEL)
    output = {"training.output_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"data.train is missing. Give a task \(cmd, cos_e, "):
        check_training(load_config(path, output))
    with pytest.raises(ConfigError, match="training: .*requires non-zero --logging_steps"):
        check_training(load_config(path, output | {"data.train": "cmd", "training.logging_steps": 0}))


def test_a_missing_file_lists_its_neighbours(tmp_path):
    (tmp_path / "runs.yaml").touch()
    with pytest.raises(ConfigError, match="there is no such file. In .*: runs.yaml"):
        load_config(Path(tmp_path / "run.yaml"))


@pytest.mark.parametrize("revision", ["12", "true", "2024-01-31"])
def test_text_that_yaml_reads_as_something_else_asks_for_quotes(tmp_path, revision):
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {{name_or_path: owner/name, revision: {revision}}}")
    with pytest.raises(ConfigError, match=r"model.revision must be text or null, got .*[qQ]uotes"):
        load_config(path)
    path.write_text(f"model: {{name_or_path: owner/name, revision: '{revision}'}}")
    assert load_config(path).model.revision == revision
