"""Small files of the published schemas, and the real ones where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from unisd.types import Message, Prompt

DATA = Path(os.environ.get("UNISD_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.exists(), reason="UNISD_DATA_DIR does not name the folder of the data sets")

COS_E: list[dict[str, Any]] = [
    {
        "id": str(number),
        "question": f"Where does number {number} sleep?",
        "choices": ["in a bed", "on a roof", "under a car"],
        "answer": "on a roof",
        "abstractive_explanation": "Roofs are warm.",
    }
    for number in range(40)
]
SCIENCEQA: dict[str, Any] = {
    "image": None,
    "question": "Which is a solid?",
    "choices": ["juice in a cup", "a stone"],
    "answer": 1,
    "hint": "Look at the objects.",
    "task": "closed choice",
    "grade": "grade2",
    "subject": "natural science",
    "topic": "physics",
    "category": "Materials",
    "skill": "Classify matter",
    "lecture": "Solids keep their shape.",
    "solution": "A stone keeps its shape.",
}
GPQA: dict[str, Any] = {
    "Question": "Which of these numbers is the largest?\n",
    "Correct Answer": "10^-4 eV\n",
    "Incorrect Answer 1": "10^-8 eV",
    "Incorrect Answer 2": "10^-9 eV\n\n",
    "Incorrect Answer 3": "10^-11 eV",
    "Explanation": "It has the largest exponent.",
    "Record ID": "rec1",
    "Subdomain": "Physics",
}
MBPP: dict[str, Any] = {
    "task_id": 602,
    "prompt": "Write a function to add one.",
    "code": "def helper(x):\n    return x\n\ndef add_one(x):\n    return helper(x) + 1",
    "test_imports": ["import math"],
    "test_list": ["assert add_one(1) == 2", "assert math.isclose(add_one(0.5), 1.5)"],
}
HUMANEVAL: dict[str, Any] = {
    "task_id": "HumanEval/0",
    "prompt": 'import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef quarter(x):\n    """ A quarter.\n    """\n',
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "def check(candidate):\n    assert candidate(8) == half(4)\n",
}
TOOL_ALPACA: dict[str, Any] = {
    "id": "0",
    "api": "Weather",
    "introduction": None,
    "functions": 'getForecast: The weather of a day\nParameters: {"city": "string", "days": "integer"}',
    "instruction": "Will it rain in Oslo and in Rome?",
    "golden_answer": [
        {"Action": "getForecast", "Action_Input": '{"city": "Oslo", "days": 1}'},
        {"Action": "[Optional]getForecast", "Action_Input": '{"days": 1, "city": "Rome"}'},
    ],
}


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The path of a .jsonl file with these rows."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def turns(prompt: Prompt | None) -> list[Message]:
    """The messages of a conversation."""
    assert isinstance(prompt, list)
    return prompt
