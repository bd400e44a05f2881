"""A component written outside the package: named in YAML, planned, trained and logged like the ones in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from unisd.cli import main
from unisd.config.errors import ConfigError
from unisd.config.load import load_config
from unisd.trainer import SelfDistillTrainer
from unisd.types import UndeclaredNeed

MODULE = """\
from dataclasses import dataclass
from typing import ClassVar

import torch

from unisd.types import Loss, Need, TokenLoss, TokenScores, Transform


@dataclass(frozen=True)
class TeacherSurprise(Loss):
    scale: float = 1.0
    needs: ClassVar[Need] = Need.STUDENT_LOGP | Need.TEACHER_LOGP

    def __call__(self, scores):
        return self.scale * (scores.student_logp - scores.teacher_logp).square()

    def metrics(self, values, scores):
        return {"far": (values > self.scale).float()}


@dataclass(frozen=True)
class OnlySure(Transform):
    nats: float
    needs: ClassVar[Need] = Need.TEACHER_ENTROPY

    def __call__(self, loss, scores):
        return loss.reweighted((scores.teacher_entropy < self.nats).float())


@dataclass(frozen=True)
class CrossEntropy(Loss):
    needs: ClassVar[Need] = Need.STUDENT_LOGP

    def __call__(self, scores):
        return -2 * scores.student_logp


@dataclass(frozen=True)
class Greedy(Loss):
    needs: ClassVar[Need] = Need.STUDENT_LOGP

    def __call__(self, scores):
        return scores.teacher_entropy


@dataclass(frozen=True)
class Needless(Loss):
    def __call__(self, scores):
        return scores.student_logp


class Unfrozen(Loss):
    needs: ClassVar[Need] = Need.STUDENT_LOGP


class NoComponent:
    pass
"""
RUN = """\
model: {name_or_path: MODEL}
data: {train: {path: rows.jsonl}}
components: []
rollout: {backend: dataset}
training:
  output_dir: out
  max_steps: 2
  learning_rate: 0.3
  optim: sgd
  per_device_train_batch_size: 4
  logging_steps: 1
  save_strategy: "no"
  report_to: none
  use_cpu: true
"""
COMPONENTS = [
    {"type": "my_components:TeacherSurprise", "scale": 2, "coefficient": 0.5},
    {"type": "my_components:OnlySure", "nats": 4.9},
]


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a run, its rows, and a module that is installed nowhere."""
    (tmp_path / "run.yaml").write_text(RUN.replace("MODEL", str(tiny_checkpoint)))
    words = ("red", "blue", "green", "gold")
    rows = [{"prompt": f"Say {word}\n", "privileged_context": word, "completion": word} for word in words]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my_components.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_components", raising=False)
    return tmp_path


def trained(*components: dict[str, Any]) -> list[dict[str, float]]:
    """What every step logged."""
    trainer = SelfDistillTrainer.from_config(load_config("run.yaml", {"components": list(components)}))
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_it_trains_and_logs_beside_the_others(folder: Path) -> None:
    plain, mine = trained(), trained(*COMPONENTS)
    for entry in mine:
        assert entry["loss/teacher_surprise"] > 1e-3
        assert 0 < entry["teacher_surprise/far"] < 1
        # Some tokens lost their weight, and the divergence of the others counts as before.
        assert 0 < entry["only_sure/weight_mean"] < 1
        assert entry["loss"] < entry["divergence"] + entry["loss/teacher_surprise"]
    assert mine[0]["divergence"] == pytest.approx(plain[0]["divergence"])
    # Its gradient moved the student somewhere else.
    assert abs(mine[1]["divergence"] - plain[1]["divergence"]) > 1e-5
    # Half of twice the square.
    halved = trained({**COMPONENTS[0], "coefficient": 0.25}, COMPONENTS[1])
    assert halved[0]["loss/teacher_surprise"] == pytest.approx(mine[0]["loss/teacher_surprise"] / 2)


def test_it_takes_part_beside_a_built_in_one_of_the_same_name(folder: Path) -> None:
    first = trained({"type": "cross_entropy"}, {"type": "my_components:CrossEntropy"})[0]
    assert first["loss/cross_entropy_2"] == pytest.approx(2 * first["loss/cross_entropy"])
    assert first["loss"] == pytest.approx(first["loss/divergence"] + 3 * first["loss/cross_entropy"])


def test_it_appears_in_the_plan_with_its_options_and_what_it_needs(folder: Path, capsys) -> None:
    listed = ", ".join(json.dumps(component) for component in COMPONENTS)
    assert main(["plan", "run.yaml", f"components=[{listed}]"]) == 0
    passes, loss, *_ = capsys.readouterr().out.split("\n\n")
    assert passes.splitlines()[1].endswith("yes   student_logp, divergence, student_entropy")
    assert passes.splitlines()[2].endswith("no    teacher_logp, divergence, teacher_entropy")
    assert loss.splitlines()[2:] == [
        "  my_components:TeacherSurprise {coefficient: 0.5, weighted: false, scale: 2.0}",
        "  my_components:OnlySure {nats: 4.9}",
    ]


def test_reading_a_signal_that_it_did_not_declare_names_the_component_and_the_remedy(folder: Path) -> None:
    # Something else needs the teacher's entropy, so it is there; the component still may not read it.
    with pytest.raises(UndeclaredNeed, match="greedy reads teacher_entropy .* Add Need.TEACHER_ENTROPY to its `needs`"):
        trained({"type": "my_components:Greedy"}, COMPONENTS[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_components:NoComponent", "my_components:NoComponent is not a component: it must be a class that derives"),
        ("my_components:Needless", r"Needless does not say what it needs. Add `needs: ClassVar\[Need\]"),
        (
            "my_components:Unfrozen",
            r"Unfrozen is not a frozen dataclass. Put @dataclass\(frozen=True\) above the class",
        ),
        ("my_components:OnlySur", "module 'my_components' has no 'OnlySur'. It has: .*OnlySure"),
        ("your_components:OnlySure", "'your_components' .* cannot be imported .* Start from the folder of the file"),
    ],
)
def test_what_is_no_component_is_refused_before_a_model_is_loaded(folder: Path, name: str, message: str) -> None:
    overrides = {"components": [{"type": name}], "model.name_or_path": "owner/not-there"}
    with pytest.raises(ConfigError, match=rf"components\[0\].type: .*{message}"):
        load_config("run.yaml", overrides)


def test_an_option_of_its_own_is_checked_like_any_other(folder: Path) -> None:
    for options, message in (({"nat": 1}, "'nat' is not an option .* Did you mean 'nats'"), ({}, "nats is missing")):
        with pytest.raises(ConfigError, match=message):
            load_config("run.yaml", {"components": [{"type": "my_components:OnlySure", **options}]})
