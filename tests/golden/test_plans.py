"""Every configuration that ships loads, and runs the forward passes it is documented with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.stored import REWRITE, read_or_write
from unisd.config.load import load_config
from unisd.planning import passes_of

CONFIGS = Path(__file__).parents[2] / "configs"
PLANS = Path(__file__).parent / "plans"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "study")
NAMES = [str(path.relative_to(CONFIGS).with_suffix("")) for path in FILES]


@pytest.mark.parametrize("name", NAMES)
def test_the_passes_of_a_shipped_configuration_are_the_stored_ones(name):
    text = f"{passes_of(load_config(CONFIGS / f'{name}.yaml')).text()}\n"
    assert text == read_or_write(PLANS / f"{name}.txt", text), f"if that is meant: {REWRITE}"


def test_there_is_a_configuration_for_every_stored_plan():
    assert NAMES
    stored = [str(path.relative_to(PLANS).with_suffix("")) for path in sorted(PLANS.rglob("*.txt"))]
    assert [name for name in stored if name not in NAMES] == []
