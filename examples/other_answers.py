"""Training rows of the task `cmd` whose right answers come in other forms, for `configs/study/answers.yaml`.

    python examples/other_answers.py MODEL [FOLDER]

writes three files into FOLDER (runs/data). Prompts, their order and `answer` are those of the task.

`cmd-several.jsonl`: the answer in one of the forms that the grader takes for right, drawn per row: arguments by
position, by name, or by name in the other order; text in single or double quotes; in backticks or not.

`cmd-words.jsonl`: the answer in other words, in one of three wordings. No grader takes them for right. The teacher is
asked the request with these words below it, after two such tasks with the same command that are solved; the solved ones
lie behind the rows that the study trains on, and none of those has their answer.

`cmd-translated.jsonl`: the same, with what MODEL writes when it is asked as the teacher is, greedily, for completion.
That is what one would fine-tune on who has words, a few solved tasks and no trainer for self-distillation. A file in
place of MODEL, `docs/results/answers/translations.json`, has what was written for the study's results.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from unisd.tasks.cmd import SIGNATURES, SYSTEM, CmdTask
from unisd.tasks.cmd_call import grade_call, read_call, write_call
from unisd.types import Example, Message

TRAINED_ON = 320
"""Rows of `data.limit`; what lies behind them is free for solved tasks."""
SOLVED = 2
"""Tasks that the teacher is shown solved, of the same command."""


def in_some_form(call: str, rng: random.Random) -> str:
    """The call in one of the forms that are right."""
    name, _, arguments = read_call(call)
    order = rng.choice(("position", "name", "other order"))
    if order == "position":
        text = f"{name}({', '.join(map(repr, arguments.values()))})"
    else:
        items = list(arguments.items())
        text = write_call(name, dict(items if order == "name" else reversed(items)))
    if rng.random() < 0.5 and '"' not in text:
        text = text.replace("'", '"')
    return f"`{text}`" if rng.random() < 0.5 else text


def in_words(call: str, rng: random.Random) -> str:
    """The call in other words."""
    name, _, arguments = read_call(call)
    wording = rng.randrange(3)
    if wording == 0:
        return f"Use {name}: {' and '.join(f'{key} is {value}' for key, value in arguments.items())}."
    if wording == 1:
        return f"{name} with {', '.join(f'{value} as {key}' for key, value in arguments.items())}"
    return f"The {', the '.join(f'{key} is {value}' for key, value in arguments.items())}; that is {name}."


def several_rows(seed: int = 0) -> list[dict[str, Any]]:
    """A row per training example, demonstration and completion alike in a form of their own."""
    rng = random.Random(f"several/{seed}")
    made = []
    for example in CmdTask().train_examples():
        text = in_some_form(example.answer, rng)
        made.append(_row(example, example.teacher_prompt, text, text))
    return made


def words_rows(seed: int = 0) -> list[dict[str, Any]]:
    """A row per training example of the study, its answer in words, solved tasks in front of the teacher's request."""
    rng = random.Random(f"words/{seed}")
    examples = CmdTask().train_examples()
    words = [in_words(example.answer, rng) for example in examples]
    asked = [f"{example.teacher_prompt[-1]['content']}\n{text}" for example, text in zip(examples, words, strict=True)]
    trained_on = {example.answer for example in examples[:TRAINED_ON]}
    solved: dict[str, list[Message]] = {name: [] for name in SIGNATURES}
    for example, request in list(zip(examples, asked, strict=True))[TRAINED_ON:]:
        turns = solved[example.fields["tool"]]
        if len(turns) < 2 * SOLVED and example.answer not in trained_on:
            turns += [{"role": "user", "content": request}, {"role": "assistant", "content": example.answer}]
    return [
        _row(example, [SYSTEM, {"role": "user", "content": request}], solved[example.fields["tool"]], text)
        for example, request, text in list(zip(examples, asked, words, strict=True))[:TRAINED_ON]
    ]


def translations(rows: list[dict[str, Any]], name_or_path: str) -> list[str]:
    """What the model writes to each row when it is asked as the teacher is, greedily."""
    # Slow to import, and the other two files need no model.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name_or_path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(name_or_path).eval()
    texts: list[str] = []
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        asked = [[SYSTEM, *row["privileged_context"], row["teacher_prompt"][-1]] for row in batch]
        inputs = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        texts += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def _row(example: Example, teacher_prompt: Any, privileged_context: Any, completion: str) -> dict[str, Any]:
    return {
        "prompt": example.prompt,
        "teacher_prompt": teacher_prompt,
        "privileged_context": privileged_context,
        "completion": completion,
        "answer": example.answer,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """The file as a whole; says how many completions the grader takes for right."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, path)
    right = sum(grade_call(row["completion"], row["answer"], SIGNATURES).correct for row in rows)
    print(f"{path}: {right} of {len(rows)} completions are right", flush=True)


def main(source: str, folder: Path) -> None:
    """Write the three files; with a model as source the last one takes a few minutes on a CPU."""
    folder.mkdir(parents=True, exist_ok=True)
    words = words_rows()
    write(folder / "cmd-several.jsonl", several_rows())
    write(folder / "cmd-words.jsonl", words)
    is_file = source.endswith(".json")
    texts = json.loads(Path(source).read_text("utf-8")) if is_file else translations(words, source)
    translated = [{**row, "completion": text} for row, text in zip(words, texts, strict=True)]
    write(folder / "cmd-translated.jsonl", translated)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("error: name the model: python examples/other_answers.py MODEL [FOLDER]")
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs/data"))
