"""Section `contexts.auxiliary`: what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from unisd.contexts.auxiliary import AuxiliaryContexts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1}, "contexts.auxiliary.count must be at least 2, got 1: one view has no spread to measure"),
        ({"num_shots": 0}, "contexts.auxiliary.num_shots must be at least 1, got 0"),
        (
            {"type": "fewshot"},
            "contexts.auxiliary.type must be one of column, few_shot, induction or pkg.module:function",
        ),
        ({"type": "column", "select": "retrieval"}, "contexts.auxiliary.select is for type: few_shot or induction"),
        ({"type": "column", "include_privileged": True}, "include_privileged is for type: few_shot or induction"),
        ({"retriever": "bm25"}, "contexts.auxiliary.retriever is for select: retrieval, got select: random"),
    ],
)
def test_views_that_cannot_be_compared_or_built_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        AuxiliaryContexts(**options)


def test_two_views_are_enough():
    assert AuxiliaryContexts(count=2).count == 2
