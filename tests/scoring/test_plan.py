"""From what is needed to the passes that are run."""

from __future__ import annotations

import pytest

from unisd.objective.clip import DivergenceClip
from unisd.objective.cross_entropy import CrossEntropy
from unisd.objective.divergence import Divergence
from unisd.objective.token_filter import TokenFilter
from unisd.scoring.plan import plan_passes
from unisd.types import Need, Signal

STUDENT = ("student", "prompt", True)
TEACHER = ("teacher", "privileged", False)


def passes(*needs: Need) -> list[tuple[str | bool, ...]]:
    return [(one.weights, one.context, one.has_grad, *one.yields) for one in plan_passes(needs).passes]


@pytest.mark.parametrize(
    ("needs", "want"),
    [
        ([], [STUDENT]),
        ([Need.STUDENT_LOGP], [(*STUDENT, "student_logp")]),
        ([Need.STUDENT_ENTROPY, Need.STUDENT_LOGP], [(*STUDENT, "student_logp", "student_entropy")]),
        ([Need.TEACHER_LOGP], [STUDENT, (*TEACHER, "teacher_logp")]),
        ([Need.TEACHER_ENTROPY], [STUDENT, (*TEACHER, "teacher_entropy")]),
        ([Need.DIVERGENCE], [(*STUDENT, "divergence"), (*TEACHER, "divergence")]),
        ([Need.hidden(5, -1)], [(*STUDENT, "hidden[-1]", "hidden[5]"), (*TEACHER, "hidden[-1]", "hidden[5]")]),
        ([Need.SAMPLER_LOGP], [STUDENT]),  # the rollout has it already
        (
            [Need.DIVERGENCE | Need.hidden(-1), Need.STUDENT_LOGP | Need.TEACHER_LOGP, Need.DIVERGENCE],
            [
                (*STUDENT, "student_logp", "divergence", "hidden[-1]"),
                (*TEACHER, "teacher_logp", "divergence", "hidden[-1]"),
            ],
        ),
    ],
)
def test_the_passes_are_those_that_yield_the_union_of_the_needs(
    needs: list[Need], want: list[tuple[str | bool, ...]]
) -> None:
    assert passes(*needs) == want


def test_a_teacher_runs_only_where_something_needs_it() -> None:
    sft = [Divergence("none").needs, CrossEntropy().needs, TokenFilter(0.5).needs]
    assert not plan_passes(sft).has_teacher
    distilled = [Divergence().needs, DivergenceClip(ceiling=10.0).needs]
    assert plan_passes(distilled).has_teacher
    assert plan_passes([Need.hidden(3)]).has_teacher


def test_scoring_computes_what_the_passes_yield_and_no_more() -> None:
    plan = plan_passes([Need.DIVERGENCE | Need.hidden(-1), Need.STUDENT_ENTROPY | Need.SAMPLER_LOGP])
    assert plan.signals == Signal.DIVERGENCE | Signal.STUDENT_ENTROPY
    assert not plan_passes([]).signals


def test_the_plan_prints_one_pass_a_line_in_columns() -> None:
    text = plan_passes([Need.DIVERGENCE | Need.STUDENT_LOGP | Need.TEACHER_LOGP | Need.hidden(-1)]).text()
    assert text == (
        "pass  weights  context     grad  yields\n"
        "1     student  prompt      yes   student_logp, divergence, hidden[-1]\n"
        "2     teacher  privileged  no    teacher_logp, divergence, hidden[-1]"
    )
    assert plan_passes([]).text() == "pass  weights  context  grad  yields\n1     student  prompt   yes"
