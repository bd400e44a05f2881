"""What the pages name exists: files, tests, metrics, options and commands; what they must say is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from unisd.config.load import load_config
from unisd.objective import COMPONENTS
from unisd.teacher import TEACHERS
from unisd.trainer import SelfDistillTrainer

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "configs" / "README.md", ROOT / "README.md"]
MECHANISMS = (ROOT / "docs" / "mechanisms.md").read_text("utf-8")
DEVIATIONS = (ROOT / "docs" / "deviations.md").read_text("utf-8")
PARTS = ("What for", "Equation", "Source", "Needs", "Cost", "When not to use it", "In the log")
METRIC = re.compile(r"`([a-z_]+/[a-z_0-9.]+)`")


def section(name: str) -> str:
    """The text below the heading of a mechanism, up to the next heading."""
    found = re.search(rf"^### `{name}`\n(.*?)(?=^##|\Z)", MECHANISMS, re.MULTILINE | re.DOTALL)
    assert found, f"docs/mechanisms.md has no section ### `{name}`"
    return found[1]


@pytest.mark.parametrize("name", [*COMPONENTS, *TEACHERS])
def test_the_section_of_a_mechanism_answers_every_question(name):
    assert re.findall(r"^\*\*(.+?)\.\*\*", section(name), re.MULTILINE) == list(PARTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_needs_that_a_page_names_are_those_of_the_class(name):
    needs = re.search(r"\*\*Needs\.\*\*(.*?)\n\n", section(name), re.DOTALL)
    assert needs
    built = {"divergence_clip": {"ceiling": 1.0}, "token_filter": {"fraction": 0.5}}
    declared = COMPONENTS[name](**built.get(name, {})).needs  # pyright: ignore[reportCallIssue]
    # `include_primary` adds to the needs of agreement; the page says so in the same sentence.
    named = set(re.findall(r"`([A-Z_]+)`", needs[1])) - ({"TEACHER_LOGP"} if name == "agreement" else set())
    assert named == {str(signal.name) for signal in declared.signals.members()}
    assert bool(declared.hidden_layers) == ("Need.hidden" in needs[1])


def test_every_test_that_the_deviations_rest_on_exists():
    cited = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", DEVIATIONS)
    assert len(cited) > 20
    missing = [name for path, name in cited if f"def {name}(" not in (ROOT / path).read_text("utf-8")]
    assert missing == []


def test_every_deviation_has_its_evidence():
    rows = re.findall(r"^\| (\d+) \|", DEVIATIONS, re.MULTILINE)
    evidence = re.findall(r"^\*\*(\d+)\. [^*]+\*\*.*?\n`tests/", DEVIATIONS, re.MULTILINE | re.DOTALL)
    assert rows == evidence == [str(number) for number in range(1, len(rows) + 1)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_exist(page: Path):
    text = page.read_text("utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    assert [name for name in re.findall(r"\bconfigs/[\w/]+\.yaml", text) if not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> set[str]:
    """Everything that a run with every component logs."""
    folder = tmp_path_factory.mktemp("metrics")
    rows = folder / "rows.jsonl"
    prompt = '{"prompt": "Say red", "privileged_context": "red", "completion": "red", "negative_context": "blue", '
    rows.write_text(prompt + '"auxiliary_contexts": ["rouge", "rot"], "answer": "red"}\n')
    components: list[dict[str, Any]] = [{"type": name} for name in COMPONENTS]
    for component in components:
        component.update(
            {"divergence_clip": {"ceiling": 1.0}, "token_filter": {"fraction": 0.5}}.get(component["type"], {})
        )
    training = {
        "output_dir": str(folder / "run"),
        "max_steps": 1,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
    }
    document = {
        "model": {"name_or_path": str(tiny_checkpoint)},
        "data": {"train": {"path": str(rows)}},
        "contexts": {"auxiliary": {"type": "column"}, "negative": {"type": "column"}},
        "teacher": {"kind": "ema"},
        "components": components,
        "rollout": {"max_completion_length": 8},
        "training": training,
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(document))
    trainer = SelfDistillTrainer.from_config(load_config(file))
    trainer.train()
    return {name for entry in trainer.state.log_history for name in entry}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_that_a_page_names_are_logged(page: Path, log: set[str]):
    of_examples = {"confident_teacher/kept", "warm_start/share"}
    named = {name for name in METRIC.findall(page.read_text("utf-8")) if not (ROOT / name).exists()}
    assert named - of_examples - log == set()
