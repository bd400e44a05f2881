"""Colours that carry numbers: one sequential map per theme, told apart by lightness alone, and a palette of series."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NUM_SHADES = 10
"""Steps of the map; the last one is for the largest value alone and its neighbours."""

Theme = Literal["light", "dark"]

# Lightness falls in the light theme and rises in the dark one, so that 0 is near the page and order needs no hue.
_ANCHORS: dict[Theme, tuple[str, str, str]] = {
    "light": ("#fff6cf", "#3aa6a6", "#12205c"),
    "dark": ("#20283a", "#1f8a94", "#ffe98a"),
}
SERIES: dict[Theme, tuple[str, ...]] = {
    "light": ("#0072b2", "#cb7d34", "#270a7f", "#842b02"),
    "dark": ("#56b4e9", "#e3ad4b", "#5f5dce", "#ac502e"),
}
"""Two blues and two browns, a light and a dark one each: at least 0.2 apart in Oklab for every colour vision."""


@dataclass(frozen=True)
class Shade:
    """A background and the text colour that is read best on it."""

    background: str
    text: str


def shades(theme: Theme) -> list[Shade]:
    """The map from the smallest value to the largest."""
    low, middle, high = (oklab_of_linear(*to_linear(anchor)) for anchor in _ANCHORS[theme])
    found = []
    for number in range(NUM_SHADES):
        place = 2 * number / (NUM_SHADES - 1)
        start, end, share = (low, middle, place) if place <= 1 else (middle, high, place - 1)
        background = _hex(tuple(a + (b - a) * share for a, b in zip(start, end, strict=True)))
        found.append(Shade(background, max(("#000000", "#ffffff"), key=lambda text: contrast(text, background))))
    return found


def shade_of(value: float, largest: float) -> int:
    """Which shade a size from 0 to `largest` gets, from 0; nothing above 0 looks like 0."""
    if value <= 0 or largest <= 0:
        return 0
    return max(1, min(NUM_SHADES - 1, round(value / largest * (NUM_SHADES - 1))))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2); text needs 4.5."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2.2)."""
    red, green, blue = to_linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def to_linear(colour: str) -> tuple[float, float, float]:
    """Linear red, green and blue of `#rrggbb`, 0 to 1."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


# Between the anchors colours are mixed in Oklab, where equal steps look equal. Matrices: Ottosson, "A perceptual color
# space for image processing", 2020.
def oklab_of_linear(r: float, g: float, b: float) -> tuple[float, float, float]:
    """Lightness and two axes of colour; the distance of two colours is about how different they look."""
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _hex(oklab: tuple[float, ...]) -> str:
    lightness, a, b = oklab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    parts = [part * 12.92 if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055 for part in linear]
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, part))):02x}" for part in parts)
