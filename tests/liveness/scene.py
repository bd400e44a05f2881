"""The files that the options of a run can point to: rows, models, data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.tiny import CHAT_TEMPLATE, build_tiny_model, build_tiny_tokenizer
from unisd.tasks.task import Grade
from unisd.types import Example, Prompt

RUN = """\
model: {name_or_path: model}
data: {train: {path: rows.jsonl}}
components: []
rollout: {max_completion_length: 6, temperature: 1.0}
training:
  output_dir: out
  max_steps: 1
  learning_rate: 0.5
  optim: sgd
  per_device_train_batch_size: 4
  logging_steps: 1
  save_strategy: "no"
  report_to: none
  use_cpu: true
  disable_tqdm: true
"""

WORDS = ("red", "green", "blue", "gold")
ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"Say {word}" + "!" * (5 * index) + "\n",
        "privileged_context": f"{word}, as in {WORDS[index - 1]}",
        "auxiliary_contexts": [WORDS[index - 1], WORDS[index - 2]],
        "negative_context": WORDS[index - 3],
        "completion": word[: 2 + index],
        "answer": "(?s).*",
    }
    for index, word in enumerate(WORDS)
]
CHATS = [
    {**row, "prompt": [{"role": "user", "content": row["prompt"]}], "completion": row["completion"]} for row in ROWS
]
QUESTIONS = [{"question": word, "hint": word[::-1]} for word in WORDS]
# With the columns of a task and with those of a row of one's own.
QUIZ = [
    {
        "question": f"Say {word}?",
        "choices": ["yes", "no"],
        "answer": "no",
        "prompt": f"Say {word}",
        "privileged_context": word,
    }
    for word in WORDS
]
MBPP = [
    {
        "task_id": 601,
        "prompt": "Write f.",
        "code": "def f(): return 1",
        "test_imports": [],
        "test_list": ["assert f() == 1"],
    }
]
# Without contexts of their own, so that these are built.
SOLVED = [
    {"prompt": f"Say {word}, please\n", "privileged_context": word, "completion": word, "answer": word}
    for word in ("red", "green", "blue", "gold", "plum", "pink")
]


def two_contexts(example: Example) -> list[Prompt]:
    """Auxiliary contexts by import path."""
    return ["one", "two"]


def wrong(example: Example) -> Prompt:
    """A negative context by import path."""
    return "wrong"


def is_even(completion: str, answer: Any) -> Grade:
    """A grader that takes every other answer of a random model for right."""
    return Grade(len(completion) % 2 == 0)


def write_scene(folder: Path) -> None:
    """Everything that the cases name, and `run.yaml`, the run that they change."""
    (folder / "run.yaml").write_text(RUN)
    files = {"rows": ROWS, "chats": CHATS, "questions": QUESTIONS, "solved": SOLVED, "quiz": QUIZ, "mbpp": MBPP}
    for name, rows in files.items():
        _write_rows(folder / f"{name}.jsonl", rows)
    # Two configurations, and two splits of the first.
    (folder / "folder").mkdir()
    for number, name in enumerate(("train", "test", "other")):
        _write_rows(folder / "folder" / f"{name}.jsonl", [{**row, "prompt": f"{number}?"} for row in ROWS])
    (folder / "folder" / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  default: true\n  data_files:\n  - {split: train, path: train.jsonl}\n"
        "  - {split: test, path: test.jsonl}\n- config_name: two\n  data_files: other.jsonl\n---\n"
    )
    tokenizer = build_tiny_tokenizer()
    # A switch of the template that leaves the generation prompt alone.
    tokenizer.chat_template = "{{ note or '' }}" + CHAT_TEMPLATE
    for seed, name in enumerate(("model", "another")):
        build_tiny_model(tokenizer, seed=seed).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    # One that ends most answers at once, because only whole answers can be wrong.
    ending = build_tiny_model(tokenizer)
    ending.generation_config.eos_token_id = list(range(100, 259))
    ending.save_pretrained(folder / "ending")
    tokenizer.save_pretrained(folder / "ending")
    _write_hub(folder)
    _write_model_with_code(folder)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _write_hub(folder: Path) -> None:
    """The hub's cache with two revisions of `tiny/model`."""
    repository = folder / "hub" / "models--tiny--model"
    (repository / "refs").mkdir(parents=True)
    for commit, (revision, name) in {"a" * 40: ("main", "model"), "b" * 40: ("next", "another")}.items():
        shutil.copytree(folder / name, repository / "snapshots" / commit)
        (repository / "refs" / revision).write_text(commit)


def _write_model_with_code(folder: Path) -> None:
    """`coded`: the model, with a class of its own."""
    shutil.copytree(folder / "model", folder / "coded")
    config = json.loads((folder / "coded" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.OwnForCausalLM"}
    (folder / "coded" / "config.json").write_text(json.dumps(config))
    code = "from transformers import LlamaForCausalLM\n\n\nclass OwnForCausalLM(LlamaForCausalLM):\n    pass\n"
    (folder / "coded" / "own.py").write_text(code)


def write_gguf(folder: Path) -> None:
    """`model/tiny.gguf`: a model of one layer, where the folder's own has two."""
    import gguf

    model = build_tiny_model(build_tiny_tokenizer(), num_layers=1)
    config = model.config
    writer = gguf.GGUFWriter(str(folder / "model" / "tiny.gguf"), "llama")
    writer.add_block_count(1)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
