"""The commented configuration that `unisd init` writes; its comments are the docstrings of the fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from peft import LoraConfig
from transformers import TrainingArguments

from unisd.config.dump import plain
from unisd.config.errors import ConfigError, suggestion
from unisd.config.fields import fields_of
from unisd.config.schema import DataSection, EvalSection, ModelSection, RunConfig
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.demonstration import Demonstration
from unisd.contexts.negative import NegativeContexts
from unisd.objective import COMPONENTS
from unisd.objective.divergence import Divergence
from unisd.options import RolloutOptions
from unisd.tasks.source import DataSource
from unisd.teacher import TEACHERS

STARTERS: dict[str, dict[str, dict[str, Any]]] = {
    "cmd": {
        "data": {"train": "cmd", "eval": "cmd"},
        "rollout": {"max_completion_length": 20},
        "training": {"output_dir": "runs/cmd"},
        "eval": {"tasks": ["cmd"], "limit": 100},
    },
    "cos_e": {
        "data": {"train": "cos_e", "eval": "cos_e"},
        "rollout": {"max_completion_length": 24},
        "training": {"output_dir": "runs/cos_e"},
        "eval": {"tasks": ["cos_e"], "limit": 200},
    },
    "gpqa": {
        "data": {"train": "scienceqa", "eval": "gpqa", "max_prompt_length": 2048, "max_teacher_prompt_length": 4096},
        "rollout": {"max_completion_length": 128},
        "training": {"output_dir": "runs/gpqa"},
        "eval": {"tasks": ["gpqa", "scienceqa"], "limit": 200},
    },
    "humaneval": {
        "data": {"train": "mbpp", "eval": "humaneval", "allow_code_execution": True},
        "rollout": {"max_completion_length": 512},
        "training": {"output_dir": "runs/humaneval"},
        "eval": {"tasks": ["humaneval", "mbpp"], "limit": 100},
    },
    "local": {
        "data": {"train": {"path": "train.jsonl"}, "eval": {"path": "eval.jsonl", "grader": "exact_match"}},
        "rollout": {"max_completion_length": 256},
        "training": {"output_dir": "runs/local"},
    },
    "mbpp": {
        "data": {"train": "mbpp", "eval": "mbpp", "allow_code_execution": True},
        "rollout": {"max_completion_length": 384},
        "training": {"output_dir": "runs/mbpp"},
        "eval": {"tasks": ["mbpp"], "limit": 100},
    },
    "scienceqa": {
        "data": {"train": "scienceqa", "eval": "scienceqa", "on_overflow": "drop"},
        "rollout": {"max_completion_length": 64},
        "training": {"output_dir": "runs/scienceqa"},
        "eval": {"tasks": ["scienceqa"], "limit": 200},
    },
    "tool_alpaca": {
        "data": {
            "train": "tool_alpaca",
            "eval": "tool_alpaca",
            "max_prompt_length": 2048,
            "on_overflow": "drop",
        },
        "rollout": {"max_completion_length": 128},
        "training": {"output_dir": "runs/tool_alpaca"},
        "eval": {"tasks": ["tool_alpaca"]},
    },
}
"""By task: what its file sets beyond `SHARED`. One for evaluation only trains on its neighbour."""

SHARED: dict[str, dict[str, Any]] = {
    "model": {"name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "peft": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"},
    "contexts": {"style": "turns", "repeats": 2},
    "objective": {"divergence": "forward_kl"},
    "training": {
        "output_dir": "",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "warmup_steps": 3,
        "max_steps": 40,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 1.0,
        "bf16": False,
        "logging_steps": 5,
        "save_steps": 20,
        "seed": 0,
        "report_to": "none",
    },
}

REQUIRED = "..."
"""Stands for the value of an option that has no default."""

HEADER = """\
# Self-distillation on {task}: the student learns from what it would have said, had it seen the demonstration.
# Lines that start with #key are options at their defaults; take the # away to set one.
{rows}#
#   unisd probe {file}    is there anything to learn? student against teacher, before training
#   unisd plan {file}     passes, memory, prompt lengths
#   unisd train {file}    key=value overrides one option: training.learning_rate=1e-4
"""

TASK_ROWS = """\
# The rows come from the hub; for a file with the same columns write {{task: {task}, path: train.jsonl}} instead.
"""

LOCAL_DATA = """\
  # Your rows have the columns prompt and privileged_context (text or messages), optionally completion and answer;
  # or name your columns in prompt_template and privileged_template. Options of train and eval:
"""


def starter_yaml(task: str, file: str) -> str:
    """A configuration for the task with every option of unisd in it, and the usual ones of transformers and peft."""
    if task not in STARTERS:
        raise ConfigError(
            f"init: there is no starter for {task!r}.{suggestion(task, STARTERS)} Allowed: {', '.join(STARTERS)}."
        )
    chosen = {name: {**SHARED.get(name, {}), **STARTERS[task].get(name, {})} for name in {*SHARED, *STARTERS[task]}}
    heads = field_docs(RunConfig)
    sections = {
        "model": _options(ModelSection, chosen["model"]),
        "peft": _foreign_options(LoraConfig, chosen["peft"]),
        "data": _options(DataSection, chosen["data"]) + (_source_options() if task == "local" else []),
        "contexts": [
            "privileged:",
            *_indented(_options(Demonstration, chosen["contexts"])),
            *_commented_out("auxiliary:", AuxiliaryContexts),
            *_commented_out("negative:", NegativeContexts),
        ],
        "teacher": _teacher_options(),
        "objective": _options(Divergence, chosen["objective"]),
        "components": _component_options(),
        "rollout": _options(RolloutOptions, chosen["rollout"]),
        "training": _foreign_options(TrainingArguments, chosen["training"]),
        "eval": _options(EvalSection, chosen.get("eval", {})),
    }
    blocks = ["\n".join([f"# {heads[name]}", f"{name}:", *_indented(lines)]) + "\n" for name, lines in sections.items()]
    rows = TASK_ROWS.format(task=task) if task not in ("cmd", "local") else ""
    return "\n".join([HEADER.format(task=task, file=file, rows=rows), *blocks])


def field_docs(schema: type) -> dict[str, str]:
    """The docstring under each field, by field name, on one line; the class's own first, then its parents'."""
    docs: dict[str, str] = {}
    for parent in schema.__mro__:
        if not dataclasses.is_dataclass(parent):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                docs.setdefault(field.target.id, " ".join(str(below.value.value).split()))
    return docs


def _options(schema: type, chosen: Mapping[str, Any], *, is_set: bool = False) -> list[str]:
    fields = {field.name: field for field in fields_of(schema)}
    return [
        _line(name, chosen.get(name, _default(fields[name])), doc, is_set=is_set or name in chosen)
        for name, doc in field_docs(schema).items()
        if name in fields
    ]


def _foreign_options(schema: type, chosen: Mapping[str, Any]) -> list[str]:
    helps = {field.name: field.metadata.get("help", "") for field in fields_of(schema)}
    return [_line(name, value, _first_sentence(helps[name]), is_set=True) for name, value in chosen.items()]


def _first_sentence(text: str) -> str:
    text = " ".join(text.split())
    return text.split(". ", 1)[0].rstrip(".") + "." if text else ""


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return plain(field.default)
    return plain(field.default_factory()) if field.default_factory is not dataclasses.MISSING else REQUIRED


def _line(name: str, value: object, doc: str, *, is_set: bool) -> str:
    text = yaml.safe_dump({name: value}, default_flow_style=True, sort_keys=False, width=10_000).strip()[1:-1]
    return f"{'' if is_set else '#'}{text}{f'  # {doc}' if doc else ''}"


def _source_options() -> list[str]:
    docs = field_docs(DataSource)
    lines = [line.strip() for line in LOCAL_DATA.splitlines()]
    return lines + [f"#   {name}: {doc}" for name, doc in docs.items()]


def _teacher_options() -> list[str]:
    kinds = [f"# {kind}: {_summary(teacher)}" for kind, teacher in TEACHERS.items()]
    options = [line for teacher in TEACHERS.values() for line in _options(teacher, {})]
    return [*kinds, "kind: base", *options]


def _component_options() -> list[str]:
    lines = []
    for name, component in COMPONENTS.items():
        head = f"- type: {name}  # {_summary(component)}"
        if name == "divergence_clip":
            lines += [head, *_indented(_options(component, {"ceiling": 10.0}))]
        else:
            lines += _commented_out(head, component)
    return lines


def _commented_out(head: str, schema: type) -> list[str]:
    return [f"#{line}" for line in (head, *_indented(_options(schema, {}, is_set=True)))]


def _summary(schema: type) -> str:
    return (schema.__doc__ or "").strip().splitlines()[0]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]
