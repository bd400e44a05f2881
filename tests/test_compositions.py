"""Every mechanism with every other under every teacher, from YAML: the loss is the sum of its parts."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tiny import build_tiny_model
from unisd.config.load import load_config
from unisd.objects import arguments_of, train_examples
from unisd.trainer import SelfDistillTrainer
from unisd.types import TokenLoss, TokenScores

WORDS = ["red", "blue", "green", "gold"]
COMPONENTS: dict[str, dict[str, Any]] = {
    "agreement": {"type": "agreement", "strength": 2.0},
    "contrastive": {"type": "contrastive", "form": "directional", "margin": 0.4, "coefficient": 0.3},
    "feature_match": {"type": "feature_match", "layers": [-1, 0], "coefficient": 0.2},
    "divergence_clip": {"type": "divergence_clip", "ceiling": 0.4},
    "token_filter": {"type": "token_filter", "fraction": 0.5},
    "cross_entropy": {"type": "cross_entropy", "coefficient": 0.1},
}
SUBSETS = [subset for size in range(7) for subset in itertools.combinations(COMPONENTS, size)]
TEACHERS: list[dict[str, Any]] = [{"kind": "base"}, {"kind": "live"}, {"kind": "ema", "decay": 0.5, "every": 1}]
CONTEXTS = {"agreement": {"auxiliary": {"type": "column"}}, "contrastive": {"negative": {"type": "column"}}}


class Watched(SelfDistillTrainer):
    """Keeps the scores of every step."""

    def compute_token_losses(self, scores: TokenScores) -> dict[str, TokenLoss]:
        self.seen = [*vars(self).get("seen", []), scores]
        return super().compute_token_losses(scores)


def by_hand(scores: TokenScores, subset: tuple[str, ...]) -> float:
    """The loss of a step of one micro-batch, written out from the formulas, token by token."""
    total = 0.0
    for row in range(len(scores.mask)):
        valid = [token for token in range(scores.mask.shape[1]) if scores.mask[row, token]]
        surest_last = sorted(valid, key=lambda token: -scores.student_entropy[row, token].item())
        kept = surest_last[: math.ceil(0.5 * len(valid))]
        for token in valid:
            main, weight = scores.divergence[row, token].item(), 1.0
            if "divergence_clip" in subset:
                main = min(main, 0.4)
            if "agreement" in subset:
                first, second = scores.auxiliary_logp[:, row, token].tolist()
                weight *= 1 / (1 + 2.0 * ((first - second) / 2) ** 2)
            if "token_filter" in subset:
                weight *= token in kept
            total += weight * main
            if "contrastive" in subset:
                student, right, wrong = (
                    logp[row, token].item() for logp in (scores.student_logp, scores.teacher_logp, scores.negative_logp)
                )
                side = 1 if right > wrong else -1
                total += 0.3 * max(0.0, min(0.4, abs(right - wrong)) - side * (student - wrong))
            if "feature_match" in subset:
                for layer in (-1, 0):
                    mine, theirs = (
                        states[layer][row, token].tolist() for states in (scores.student_hidden, scores.teacher_hidden)
                    )
                    total += 0.2 / 2 * sum((one - other) ** 2 for one, other in zip(mine, theirs, strict=True)) / 32
            if "cross_entropy" in subset:
                total += 0.1 * -scores.student_logp[row, token].item()
    return total / int(scores.mask.sum())


def data_file(folder: Path) -> Path:
    """Four rows with a demonstration, two auxiliary ones and a wrong one, of several lengths."""
    rows = [
        {
            "prompt": f"Say {word}" + "!" * index + "\n",
            "privileged_context": word,
            "auxiliary_contexts": [word, WORDS[(index + 1) % 4]],
            "negative_context": WORDS[(index + 2) % 4],
            "completion": word,
        }
        for index, word in enumerate(WORDS)
    ]
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def document(subset: tuple[str, ...], teacher: dict[str, Any], data: Path) -> dict[str, Any]:
    """The YAML file of one composition."""
    return {
        "model": {"name_or_path": "owner/name"},
        "data": {"train": {"path": str(data)}},
        "contexts": {key: value for name in subset for key, value in CONTEXTS.get(name, {}).items()},
        "teacher": teacher,
        "components": [COMPONENTS[name] for name in subset],
        "rollout": {"backend": "dataset"},
        "training": {
            "output_dir": str(data.parent / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.3,
            "optim": "sgd",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        },
    }


def test_the_loss_of_every_composition_is_the_sum_of_its_parts(tmp_path, tiny_tokenizer) -> None:
    data, path = data_file(tmp_path), tmp_path / "run.yaml"
    model = build_tiny_model(tiny_tokenizer)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = None
    losses: dict[tuple[frozenset[str], str], list[float]] = {}
    for subset, teacher in itertools.product(SUBSETS, TEACHERS):
        path.write_text(yaml.safe_dump(document(subset, teacher, data)))
        config = load_config(path)
        rows = rows or train_examples(config)
        model.load_state_dict(start)
        trainer = Watched(
            model,
            arguments_of(config),
            rows,
            processing_class=tiny_tokenizer,
            teacher=config.teacher,
            objective=config.objective,
            components=config.components,
            demonstration=config.contexts.privileged,
            gates=config.contexts.gates,
        )
        trainer.train()
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        want = [by_hand(scores, subset) for scores in trainer.seen]
        assert len(logged) == 2
        assert logged == pytest.approx(want, rel=1e-4), (subset, teacher)
        losses[frozenset(subset), teacher["kind"]] = logged
    assert len(losses) == 192
    for (subset, teacher), (first, second) in losses.items():
        # Every part is felt beside every other.
        for name in subset:
            assert abs(first - losses[subset - {name}, teacher][0]) > 1e-4, (name, subset)
        # The student moved after the first step; the live teacher with it, the average half as far, the base not.
        others = [losses[subset, kind][1] for kind in ("base", "live", "ema") if kind != teacher]
        assert min(abs(second - other) for other in others) > 1e-5, (subset, teacher)
