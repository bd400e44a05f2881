"""The map of the heat maps: its order is one of lightness, and every text on it can be read."""

from __future__ import annotations

import pytest

from unisd.report.colours import NUM_SHADES, SERIES, contrast, luminance, shade_of, shades

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


def test_zero_is_the_first_shade_and_nothing_else_is():
    assert [shade_of(value, 2.0) for value in (0.0, 1e-9, 1.0, 2.0, 3.0)] == [0, 1, 4, 9, 9]
    assert shade_of(0.0, 0.0) == shade_of(1.0, 0.0) == 0
