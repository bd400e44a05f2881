"""Which task a configuration stands for, and where its rows come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.published import COS_E, MBPP, write_rows
from unisd.config.load import load_config
from unisd.config.schema import RunConfig
from unisd.objects import eval_examples, eval_tasks, task_of, train_examples
from unisd.tasks.cmd import CmdTask
from unisd.tasks.cos_e import CosETask
from unisd.tasks.local import LocalTask
from unisd.tasks.mbpp import MBPPTask
from unisd.tasks.source import DataSource


def config_of(folder: Path, text: str) -> RunConfig:
    path = folder / "run.yaml"
    path.write_text(f"model: {{name_or_path: owner/name}}\n{text}\n")
    return load_config(path)


def test_a_task_name_stands_for_the_rows_of_the_hub(tmp_path):
    config = config_of(tmp_path, "data: {train: cmd, eval: cos_e}")
    assert task_of(config, "train") == CmdTask()
    assert task_of(config, "eval") == CosETask()
    assert eval_tasks(config) == [CosETask()]
    with pytest.raises(ValueError, match=r"Salesforce/cos_e: .* \{task: cos_e, path: \.\.\.\}"):
        eval_examples(config)


def test_a_task_with_a_path_reads_local_rows_of_its_schema(tmp_path):
    train, held_out = (write_rows(tmp_path / f"{name}.jsonl", COS_E[:5]) for name in ("train", "eval"))
    first = f"{{task: cos_e, path: {train}, split: 'train[:3]'}}"
    data = f"data: {{train: {first}, eval: {{task: cos_e, path: {held_out}}}, limit: 2}}"
    config = config_of(tmp_path, f"{data}\neval: {{tasks: [cos_e, cmd], limit: 4}}")
    expected = CosETask(DataSource(train, split="train[:3]", task="cos_e"), DataSource(held_out, task="cos_e"))
    assert task_of(config, "train") == expected
    assert eval_tasks(config) == [expected, CmdTask()]
    assert len(train_examples(config)) == 2
    held_out_examples = eval_examples(config)
    assert held_out_examples is not None
    assert len(held_out_examples) == 4


def test_a_task_of_eval_tasks_takes_the_hub_where_data_eval_is_another_one(tmp_path):
    config = config_of(tmp_path, "data: {train: cmd, eval: {path: a.jsonl}}\neval: {tasks: [cos_e]}")
    assert isinstance(task_of(config, "eval"), LocalTask)
    assert eval_tasks(config) == [CosETask()]


def test_the_permission_to_run_code_reaches_the_task(tmp_path):
    path = write_rows(tmp_path / "mbpp.jsonl", [MBPP])
    config = config_of(tmp_path, f"data: {{train: {{task: mbpp, path: {path}}}, allow_code_execution: true}}")
    task = task_of(config, "train")
    assert isinstance(task, MBPPTask)
    assert task.allow_code_execution
    assert [example.fields["id"] for example in train_examples(config)] == [602]
