"""Dead knobs and signs of collapse, read from logged metrics."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import build_tiny_model, build_tiny_tokenizer
from unisd.args import SelfDistillConfig
from unisd.diagnostics import dead_knobs, divergence_profile, ngram_overlap, signals
from unisd.objective import Agreement, Contrastive, DivergenceClip
from unisd.teacher import EMATeacher, LiveTeacher, Teacher
from unisd.trainer import SelfDistillTrainer
from unisd.types import Example, Loss, Transform

ALIVE = {"loss": 1.0, "divergence": 0.5, "clip/changed": 0.1, "agreement/below_0.99": 0.3, "contrastive/gradient": 0.4}


def test_a_profile_says_where_the_divergence_sits() -> None:
    values = torch.tensor([[4.0, 1.0, 99.0], [99.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    profile = divergence_profile(values, mask)
    assert profile["top_5_percent_share"].item() == pytest.approx(4 / 10)  # one token of four, the largest
    assert profile["first_token"].item() == pytest.approx((4 + 2) / 2)
    assert profile["median_token"].item() == 2.0
    assert divergence_profile(values, torch.zeros_like(mask)) == {}


def test_overlap_counts_the_grams_that_only_the_privileged_view_has() -> None:
    completion = [1, 2, 3, 4, 5]  # pairs 12 23 34 45
    assert ngram_overlap(completion, [9, 2, 3, 4], [0, 2, 3], size=2) == 1 / 4  # 23 stands in the prompt too
    assert ngram_overlap(completion, completion, [], size=2) == 1.0
    assert ngram_overlap([1], [1], [], size=2) == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clip/changed": 0.0}, "clip: it changed no token"),
        ({"agreement/below_0.99": 0.0}, "agreement: every weight is above 0.99"),
        ({"contrastive/gradient": 0.03}, "contrastive: no gradient on 97 % of the tokens"),
        ({"loss/match": 0.0}, "match: the term is zero"),
        ({"divergence": 1e-9}, "teacher: it agrees with the student"),
        ({"teacher/num_updates": 1.0, "teacher/distance_to_base": 0.0}, "teacher: it was updated and has not moved"),
        ({"teacher/num_updates": 0.0, "step": 11}, "teacher: it was never updated"),
    ],
)
def test_each_dead_knob_is_named_and_a_live_one_is_not(change: dict[str, float], said: str) -> None:
    assert dead_knobs([ALIVE, {**ALIVE, "teacher/num_updates": 1.0, "teacher/distance_to_base": 0.1}]) == []
    (found,) = dead_knobs([{**ALIVE, **change}, {"eval_loss": 1.0}])
    assert found.startswith(said)


def test_a_gate_does_not_make_the_contrastive_term_look_dead() -> None:
    # A tenth of the sequences is scored, and on two fifths of their tokens the hinge moves the student.
    assert dead_knobs([{**ALIVE, "contrastive/gradient": 0.04, "negative/passes_saved": 0.9}]) == []
    (found,) = dead_knobs([{**ALIVE, "contrastive/gradient": 0.004, "negative/passes_saved": 0.9}])
    assert found.startswith("contrastive: no gradient on 96 % of the tokens with a negative view.")


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ({"divergence/first_token": 3.0, "divergence/median_token": 0.1}, {}, "first tokens diverge 1.6 nats"),
        ({"divergence/top_5_percent_share": 0.95}, {}, "5 % of the tokens hold"),
        ({}, {"completions/clipped_ratio": 0.9}, "most completions are cut"),
        ({"completions/mean_length": 20.0}, {"completions/mean_length": 40.0}, "completions grew from 20 to 40"),
        ({"entropy": 1.0}, {"entropy": 0.1}, "the student's entropy fell from 1 to 0.1"),
    ],
)
def test_each_sign_is_told_once_it_shows(first: dict[str, float], last: dict[str, float], said: str) -> None:
    lengths = {"entropy": 1.0, "completions/mean_length": 20.0}
    calm = {"loss": 1.0, "divergence/first_token": 0.2, "divergence/median_token": 0.1, **lengths}
    assert signals([calm, calm]) == []
    (found,) = signals([{**calm, **first}, {**calm, **last}])
    assert found.startswith(said)


def warned(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    teacher: Teacher,
    components: list[Loss | Transform] | None,
    **options: Any,
) -> tuple[list[str], list[str]]:
    """What is said at step 10, and at the end."""
    tokenizer = build_tiny_tokenizer()
    rows = [
        Example(f"Say {word}", f"{word}!", completion=word, auxiliary_contexts=(word, word), negative_context=word * 2)
        for word in ("red", "blue")
    ]
    arguments = {"backend": "dataset", "max_steps": 12, "report_to": "none", "use_cpu": True, "save_strategy": "no"}
    trainer = SelfDistillTrainer(
        build_tiny_model(tokenizer),
        SelfDistillConfig(str(folder), **{**arguments, "logging_steps": 100, "disable_tqdm": True, **options}),
        rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        teacher=teacher,
        components=components,
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    early = [record.getMessage() for record in caplog.records if record.getMessage().startswith("after 10 steps")]
    return early, trainer.diagnostics.warnings


def test_a_run_with_dead_knobs_is_told_so_at_step_ten_and_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = [DivergenceClip(ceiling=1e6), Agreement(strength=1e-9), Contrastive(margin=0.0, coefficient=0.0)]
    early, final = warned(tmp_path, caplog, EMATeacher(decay=1.0, every=2), dead, learning_rate=1e-3)
    for owner in ("divergence_clip", "agreement", "contrastive", "teacher"):
        assert any(f"steps: {owner}: " in sentence for sentence in early), owner
        assert any(sentence.startswith(f"{owner}: ") for sentence in final), owner


def test_what_is_said_at_step_ten_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 5}
    for folder, options, times in (("evaluated", evaluated, 1), ("ends", {"max_steps": 10}, 0)):
        caplog.clear()
        early, final = warned(tmp_path / folder, caplog, LiveTeacher(), [DivergenceClip(ceiling=1e6)], **options)
        assert sum("divergence_clip: " in sentence for sentence in early) == times
        assert any(sentence.startswith("divergence_clip: ") for sentence in final)


def test_a_clip_that_never_cut_is_dead_where_the_run_names_it_and_not_where_it_is_the_default(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, components, is_said in (("default", None, False), ("named", [DivergenceClip(ceiling=10.0)], True)):
        caplog.clear()
        for sentences in warned(tmp_path / folder, caplog, LiveTeacher(), components, learning_rate=1e-4):
            assert any("divergence_clip: it changed no token" in sentence for sentence in sentences) is is_said


def test_a_run_whose_parts_all_act_hears_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alive: list[Loss | Transform] = [DivergenceClip(quantile=0.5), Contrastive(form="directional", margin=5.0)]
    early, final = warned(tmp_path, caplog, LiveTeacher(), alive, learning_rate=1e-4)
    assert early == []
    assert [sentence for sentence in final if not sentence.startswith("5 %")] == []
