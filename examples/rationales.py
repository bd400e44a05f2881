"""CoS-E with people's reasons: rows that ask for a reason and an option, for `configs/study/rationales.yaml`.

    python examples/rationales.py TRAIN VALIDATION [FOLDER]

reads rows of CoS-E's schema from two files and writes `cos_e-rationales-train.jsonl` and `...-validation.jsonl` into
FOLDER (runs/data). Options are shuffled, and the teacher is asked without them, as in the task `cos_e`. Demonstration
and completion are the reason that the data set gives, whatever it is worth, and the right option in a line of its own.

`grade` is named in the study's `data.eval.grader`: the reply is read as `cos_e` reads it, after its last `Answer:`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from unisd.tasks.choice import UnreadableChoice, read_choice, written_choice
from unisd.tasks.cos_e import CosETask
from unisd.tasks.source import DataSource
from unisd.tasks.task import Grade
from unisd.types import Example

SYSTEM = {"role": "system", "content": "Give the reason in one sentence, then one option."}
EXAMPLE_TURNS = (
    {"role": "user", "content": "Where do fish live?\nA. in the desert\nB. on a shelf\nC. in water"},
    {"role": "assistant", "content": "Fish breathe under water.\nAnswer: C. in water"},
)


def grade(completion: str, answer: dict[str, Any]) -> Grade:
    """Right if the one option that the reply names is the right one of `answer`, which has all `options`."""
    try:
        chosen = read_choice(completion, answer["options"])
    except UnreadableChoice as error:
        return Grade(False, is_well_formed=False, note=str(error))
    given = written_choice(answer["options"], chosen)
    return Grade(True) if given == answer["right"] else Grade(False, note=f"{given}, not {answer['right']}")


def row(example: Example) -> dict[str, Any]:
    """An example of `cos_e` with its reason shown, asked for and learnt."""
    reason = " ".join((example.fields["explanation"] or "").split())
    if not reason:
        raise ValueError(f"{example.fields['id']}: has no abstractive_explanation. Give rows of Salesforce/cos_e.")
    reply = f"{reason}\nAnswer: {example.answer}"
    question, asked = example.prompt[-1], example.teacher_prompt[-1]
    return {
        "prompt": [SYSTEM, *EXAMPLE_TURNS, question],
        "teacher_prompt": [SYSTEM, asked],
        "privileged_context": reply,
        "completion": reply,
        "answer": {"options": example.fields["options"], "right": example.answer},
    }


def main(train: str, validation: str, folder: Path) -> None:
    """Write the files, each as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    task = CosETask(train=DataSource(train), eval=DataSource(validation))
    for name, examples in (("train", task.train_examples()), ("validation", task.eval_examples())):
        path = folder / f"cos_e-rationales-{name}.jsonl"
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row(example)) + "\n" for example in examples), encoding="utf-8")
        os.replace(partial, path)
        print(f"{path}: {len(examples)} rows")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("error: name two files: python examples/rationales.py TRAIN VALIDATION [FOLDER]")
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else Path("runs/data"))
