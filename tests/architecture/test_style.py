"""The style guide's rules, held over the whole tree."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture import rules

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "unisd"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("src", "tests", "examples", "benchmarks")
ALL_PYTHON = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PACKAGE_INITS = sorted(PACKAGE.glob("*/__init__.py"))
BANNED_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}


def in_package(*places: str) -> list[Path]:
    """The files at these places of the package; a place is a file or a folder, and it has to exist."""
    found = {place: sorted((PACKAGE / place).glob("*.py")) or [PACKAGE / place] for place in places}
    return [path for paths in found.values() for path in paths]


# Rule, files it holds for, a source that breaks it, a source that keeps it.
RULES = [
    (rules.long_file, ALL_PYTHON, "x = 1\n" * 401, "x = 1\n" * 400),
    (rules.long_functions, ALL_PYTHON, "def f():\n" + "    x = 1\n" * 60, "def f():\n" + "    x = 1\n" * 59),
    (
        rules.many_positional_arguments,
        ALL_PYTHON,
        "def f(a, b, c, d, /, e, f, g, h): ...",
        "class A:\n    def f(self, a, b, c, d, e, f, g, *, h, i): ...",
    ),
    (
        rules.waiting_calls,
        in_package("step.py", "objective", "scoring"),
        "loss.mean().item()",
        "item = loss.to(device)",
    ),
    (rules.waiting_calls, in_package("step.py", "objective", "scoring"), "print(loss)", "log(loss)"),
    (rules.waiting_calls, in_package("step.py", "objective", "scoring"), "loss.to('cpu')", "loss.to(device)"),
    (
        rules.defaulted_getattr,
        in_package("step.py", "objective", "options.py", "types.py"),
        "getattr(args, 'beta', 0.5)",
        "getattr(args, name)",
    ),
    (rules.work_at_import, SOURCES, "import a\na.set_threads(1)", "def f():\n    print()\nlogger = logger_of('a')"),
    (
        rules.optional_imports_at_top,
        # The Triton kernels are built of it; only their dispatch imports them, on its devices.
        [path for path in SOURCES if "triton" not in path.stem],
        "try:\n    from matplotlib import pyplot\nexcept ImportError:\n    pyplot = None",
        "def plot():\n    from matplotlib import pyplot\nif TYPE_CHECKING:\n    import vllm",
    ),
    (
        rules.foreign_component_imports,
        in_package("objective"),
        "from unisd.options import PromptOptions",
        "import math\nfrom torch import Tensor\nfrom unisd.types import Loss\nfrom unisd.objective.clip import Clip",
    ),
    (
        rules.crowded_package_init,
        PACKAGE_INITS,
        "def f(): ...",
        "'''Doc.'''\nfrom a import B\nBS: dict[str, type] = {'b': B}",
    ),
    (rules.unsorted_registries, PACKAGE_INITS, "XS = {'b': B, 'a': A}", "XS: dict[str, type] = {'a': A, 'b': B}"),
    (
        rules.undocumented_knobs,
        in_package("options.py", "args.py", "config", "objective", "teacher"),
        "@dataclass(frozen=True)\nclass A:\n    x: int = 1\n    y: int = 2\n    '''Why.'''",
        "@dataclass\nclass A:\n    x: int\n    '''Why.'''\n    needs: ClassVar[Need] = Need()\n    _y: int = 2",
    ),
    (
        rules.undocumented_methods,
        SOURCES,
        "class A:\n    '''A.'''\n    def f(self): ...",
        "class A:\n    def f(self):\n        '''F.'''\nclass B(A):\n    def f(self): ...\n    def __call__(self): ...",
    ),
]


@pytest.mark.parametrize(
    ("rule", "paths", "broken", "kept"), [pytest.param(*row, id=f"{row[0].__name__}") for row in RULES]
)
def test_the_tree_keeps_the_rule_and_the_rule_can_fail(
    rule: Callable[[str], list[str]], paths: list[Path], broken: str, kept: str
):
    assert rule(broken)
    assert not rule(kept)
    found = {str(path.relative_to(ROOT)): rule(path.read_text("utf-8")) for path in paths}
    assert found
    assert {path: problems for path, problems in found.items() if problems} == {}


def test_packages_are_two_levels_deep_and_files_say_what_they_hold():
    inside = [path.relative_to(PACKAGE) for path in SOURCES]
    assert [str(path) for path in inside if len(path.parts) > 2] == []
    assert [str(path) for path in ALL_PYTHON if path.stem in BANNED_NAMES] == []


@pytest.mark.parametrize(
    "text", ["cd /ho" + "me/ada", "'/tm" + "p'", "pip --index" + "-url x", "see https://pypi" + ".org"]
)
def test_places_of_one_machine_are_seen_where_they_stand(text):
    assert rules.private_places(f"a\n{text}")[0].startswith("line 2: ")
    assert rules.private_places("cd ~/work && ls a/tmp/b and {folder}/home /works tmp/") == []


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert files
    found = {str(path): rules.private_places(path.read_bytes().decode("utf-8", errors="ignore")) for path in files}
    assert {path: places for path, places in found.items() if places} == {}
