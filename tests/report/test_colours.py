"""The map of the heat maps: its order is one of lightness, and every text on it can be read."""

from __future__ import annotations

import itertools
import math

import pytest

from unisd.report.colours import NUM_SHADES, SERIES, contrast, luminance, oklab_of_linear, shade_of, shades, to_linear

PAGES = {"light": "#ffffff", "dark": "#14171c"}


def test_contrast_is_that_of_the_web_guidelines():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    # 0.05 + ((0x77 / 255 + 0.055) / 1.055) ** 2.4 = 0.2345; 1.05 / 0.2345
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_shades_are_told_apart_by_lightness_alone_and_carry_readable_text(theme):
    found = shades(theme)
    assert len(found) == NUM_SHADES
    assert all(contrast(one.background, one.text) >= 4.5 for one in found)
    lightness = [luminance(one.background) for one in found]
    assert lightness == sorted(lightness, reverse=theme == "light")
    # The first shade lies next to the page, the last one stands out from it.
    assert contrast(found[0].background, PAGES[theme]) < 1.3
    assert contrast(found[-1].background, PAGES[theme]) > 10


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves_stand_out_from_the_page(theme):
    assert all(contrast(colour, PAGES[theme]) >= 3 for colour in SERIES[theme])


# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009:
# complete deficiency, on linear RGB.
VISIONS = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_curves_are_told_apart_by_every_colour_vision(theme, vision):
    def seen(colour):
        mixed = (sum(map(math.prod, zip(row, to_linear(colour), strict=True))) for row in VISIONS[vision])
        return oklab_of_linear(*(min(1.0, max(0.0, part)) for part in mixed))

    for one, other in itertools.combinations(SERIES[theme], 2):
        assert math.dist(seen(one), seen(other)) > 0.2


def test_zero_is_the_first_shade_and_nothing_else_is():
    assert [shade_of(value, 2.0) for value in (0.0, 1e-9, 1.0, 2.0, 3.0)] == [0, 1, 4, 9, 9]
    assert shade_of(0.0, 0.0) == shade_of(1.0, 0.0) == 0
