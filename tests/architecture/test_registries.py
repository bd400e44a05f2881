"""What a registry offers can be read about and tried: a section in the docs, and a file that uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from unisd.config.starter import STARTERS
from unisd.objective import COMPONENTS
from unisd.tasks import TASKS
from unisd.teacher import TEACHERS

ROOT = Path(__file__).parents[2]
DOCS = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
FILES = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "study")
RECIPES = [yaml.safe_load(path.read_text("utf-8")) for path in FILES]
USED = {
    "component": {entry["type"] for recipe in RECIPES for entry in recipe.get("components", [])},
    # A task is tried with the file that `unisd init` writes for it.
    "task": {name for name, starter in STARTERS.items() if name in starter["data"].values()},
    "teacher": {recipe["teacher"]["kind"] for recipe in RECIPES if "teacher" in recipe},
}
ENTRIES = [
    *(("component", name) for name in COMPONENTS),
    *(("task", name) for name in TASKS),
    *(("teacher", name) for name in TEACHERS),
]


@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_a_registry_entry_has_a_section_in_the_docs_and_a_file_to_start_from(registry: str, name: str):
    assert re.search(rf"^##+ `{name}`$", DOCS, re.MULTILINE), f"no section ### `{name}` in docs/*.md"
    assert name in USED[registry], f"no file in configs/, and none that unisd init writes, uses the {registry} {name}"
