"""What a user can name: it exists, it is documented, it is tested."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import unisd
from tests.architecture import rules

ROOT = Path(__file__).parents[2]
REGISTRIES = [
    (path.parent.name, name)
    for path in sorted((ROOT / "src" / "unisd").glob("*/__init__.py"))
    for name in rules.registry_names(path.read_text("utf-8"))
]


def has_own_docstring(thing: object) -> bool:
    """Whether somebody wrote one; a dataclass without one gets its signature from Python, any class its parent's."""
    docstring = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    return bool(docstring) and not docstring.startswith(f"{getattr(thing, '__name__', '')}(")


def test_the_public_names_are_few_exist_and_are_documented():
    names: list[str] = vars(unisd)["__all__"]
    assert 0 < len(names) <= 20
    assert set(names) <= set(dir(unisd))
    assert [name for name in names if not has_own_docstring(getattr(unisd, name))] == []


@pytest.mark.parametrize(("package", "name"), REGISTRIES)
def test_every_registry_entry_is_documented_and_named_in_a_test(package, name):
    entries = getattr(importlib.import_module(f"unisd.{package}"), name)
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests" / package).glob("test_*.py"))
    assert entries
    assert [key for key, entry in entries.items() if not has_own_docstring(entry)] == []
    assert [key for key, entry in entries.items() if entry.__name__ not in tests] == []
