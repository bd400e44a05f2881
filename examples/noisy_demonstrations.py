"""The training rows of the task `cmd` with some wrong demonstrations, for `configs/study/noisy.yaml`.

    python examples/noisy_demonstrations.py [FOLDER]

writes `cmd-wrong-20.jsonl` and `cmd-wrong-40.jsonl` into FOLDER (runs/data): the rows of the task in its order, but in
20 and 40 % of them demonstration and completion are a call with one argument changed. What is wrong in the first
is wrong in the second, and `answer` stays right. Held-out prompts are those of the task.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from unisd.tasks.cmd import CmdTask

PERCENTAGES = (20, 40)


def rows(percentage: float, seed: int = 0) -> list[dict[str, Any]]:
    """The training rows; each is wrong with this probability, and with a larger one where it is with a smaller."""
    rng = random.Random(f"noisy/{seed}")
    made = []
    for example in CmdTask().train_examples():
        is_wrong = 100 * rng.random() < percentage
        call = example.fields["negative_call"] if is_wrong else example.answer
        made.append(
            {
                "prompt": example.prompt,
                "teacher_prompt": example.teacher_prompt,
                "privileged_context": call,
                "completion": call,
                "answer": example.answer,
                "is_wrong": is_wrong,
            }
        )
    return made


def main(folder: Path) -> None:
    """Write the files, each as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for percentage in PERCENTAGES:
        path = folder / f"cmd-wrong-{percentage}.jsonl"
        made = rows(percentage)
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        os.replace(partial, path)
        print(f"{path}: {sum(row['is_wrong'] for row in made)} of {len(made)} demonstrations are wrong")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/data"))
