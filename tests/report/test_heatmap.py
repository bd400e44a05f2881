"""The heat map as an object for a notebook and as a file; its numbers are those of `unisd.token_maps`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.report.folders import HOSTILE, token_map
from tests.report.tags import Tags
from tests.tiny import build_tiny_model, build_tiny_tokenizer
from tests.trainer.build import build, rows_in_contexts
from unisd.objective import Agreement, Contrastive, DivergenceClip
from unisd.report import HeatMap, token_heatmap
from unisd.report.colours import shade_of
from unisd.report.heatmap import scales_of, shown, visible
from unisd.report.template import clean
from unisd.token_maps.keep import row_of
from unisd.token_maps.measure import token_maps
from unisd.types import Example

COMPONENTS = [DivergenceClip(ceiling=0.5), Agreement(), Contrastive()]


def test_one_call_on_a_trainer_shows_the_numbers_of_its_step(tmp_path):
    trainer = build(tmp_path, train=rows_in_contexts(4), keywords={"components": COMPONENTS})
    example = rows_in_contexts(1)[0]
    found = token_heatmap(trainer, example, "red")
    assert found.token_map == token_maps(trainer, [row_of(trainer, example, "red")])[0]
    page = found._repr_html_()
    names = [one.name for one in found.token_map.measures]
    assert re.findall(r'<span class="name">([^<]+)</span>', page) == names
    # Each token once per measure, the shade of each by its share of the largest.
    divergence = found.token_map.measure("divergence").values
    first_row = page.split('<div class="row">')[1]
    assert re.findall(r'<span class="t (\w+)" tabindex', first_row) == [
        f"h{shade_of(value, max(divergence))}" for value in divergence
    ]
    assert page.count('class="t ') == len(names) * len(found.token_map.tokens)
    assert all(f"{value:.3g}" in page for value in divergence)


def test_a_model_and_components_do_as_well_and_agree_with_a_trainer(tmp_path):
    example = rows_in_contexts(1)[0]
    trainer = build(tmp_path, train=rows_in_contexts(4), keywords={"components": COMPONENTS})
    tokenizer = build_tiny_tokenizer()
    found = token_heatmap(
        build_tiny_model(tokenizer), example, "red", processing_class=tokenizer, components=COMPONENTS
    )
    assert found.token_map == token_heatmap(trainer, example, "red").token_map
    with pytest.raises(ValueError, match="a trainer has its own components. Give a model"):
        token_heatmap(trainer, example, components=COMPONENTS)


def test_without_a_completion_the_student_answers_greedily(tmp_path):
    trainer = build(tmp_path, keywords={"components": []})
    example = Example(prompt="Say red\n", privileged_context="red")
    found = token_heatmap(trainer, {"prompt": "Say red\n", "privileged_context": "red"}).token_map
    tokenizer: Any = trainer.processing_class
    model: Any = trainer.model
    ids = tokenizer("Say red\n", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert found.tokens[0] == tokenizer.decode([int(model(ids).logits[0, -1].argmax())])
    assert found == token_heatmap(trainer, example).token_map


def test_texts_that_try_to_get_out_stay_text(tmp_path):
    heat_map = HeatMap(token_map(), 1.0)
    path = heat_map.save(tmp_path / "new" / "map.html")
    found = Tags(path.read_text(encoding="utf-8"))
    assert not found.names & {"script", "img"}
    assert found.acting == []
    assert clean(HOSTILE) in found.text
    assert "\u202e" not in found.text
    assert "\x00" not in found.text
    assert "7 further tokens are not shown" in found.text
    assert [one.name for one in path.parent.iterdir()] == ["map.html"]
    assert clean("a\ud800\tb\n") == "a\ufffd\tb\n"


def test_tokens_without_a_number_and_tokens_that_do_not_count_have_no_shade():
    kinds = [kind for kind, _ in shown(token_map()).rows[0].cells]
    assert kinds[0] == kinds[-1] == "off"
    assert "off" not in kinds[1:-1]


def test_maps_side_by_side_share_their_scales():
    small = token_map()
    measures = tuple(replace(one, values=tuple(10 * (value or 0) for value in one.values)) for one in small.measures)
    scales = scales_of([small, replace(small, measures=measures)])
    # 0, 1/6 ... 4/6 count, times ten; weights and flags reach 1 at least.
    assert scales["divergence"] == pytest.approx(40 / 6)
    assert scales_of([small])["agreement/weight_mean"] == 1.0
    assert shown(small, scales).rows[0].cells[4][0] == "h1"
    assert shown(small).rows[0].cells[4][0] == "h9"


def test_white_space_can_be_seen():
    assert [visible(token) for token in (" a", "\n", "  ", "")] == [" a", "\u21b5", "\u2423\u2423", "\u2205"]
