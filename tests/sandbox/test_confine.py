"""What is imported while the process is not yet confined."""

from __future__ import annotations

import random
import sys

import pytest

from unisd.sandbox.confine import IMPORTABLE, import_ahead


@pytest.fixture(autouse=True)
def keep_the_random_state():
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.mark.parametrize(
    "text",
    [
        "import colorsys",
        "import os, colorsys as c  # both",
        "x = 1; import colorsys",
        "    import colorsys",
        "import re, \\\n    colorsys",
        "from colorsys import hls_to_rgb",
        "import re\nimport colorsys\n\ndef f(): pass",
    ],
)
def test_an_import_of_any_form_is_found(monkeypatch, text):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    import_ahead(text)
    assert "colorsys" in sys.modules


def test_submodules_are_found_whether_named_or_taken_from_a_package(monkeypatch):
    for name in ("json.tool", "xml.etree.cElementTree", "xml.etree.ElementInclude", "xml.sax.saxutils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import_ahead("import json.tool\nfrom xml.etree import (\n    ElementInclude,\n)\nfrom xml.sax import saxutils as s")
    assert {"json.tool", "xml.etree.ElementInclude", "xml.sax.saxutils"} <= set(sys.modules)


@pytest.mark.parametrize(
    "name", ["this", "unittest.__main__", "test.support", "nntplib", "torch.cuda", "xml..dom", "."]
)
def test_what_acts_when_it_is_imported_or_is_not_of_the_standard_library_is_not_imported(monkeypatch, name):
    monkeypatch.delitem(sys.modules, name, raising=False)
    import_ahead(f"import {name}\nfrom {name} import x\n")
    assert name not in sys.modules


def test_only_modules_of_the_standard_library_are_importable():
    assert set(IMPORTABLE) - sys.stdlib_module_names == set()
