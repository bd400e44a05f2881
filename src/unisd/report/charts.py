"""Charts as inline SVG that takes its text, ink and series colours from the page, so that one file fits both themes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unisd.report.colours import SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = Mapping[float, float]
"""Value by optimizer step."""

MAX_POINTS = 80
"""Of a line; longer ones are averaged, because a screen shows no more."""
LINES_PER_CHART = len(SERIES["light"])
"""Curves that can be told apart, by colour and by dash."""

# Colours that nothing else uses; the page's own replace them.
_INK, _FAINT = "#010203", "#040506"
_LINES = tuple(f"#0a0b{number:02x}" for number in range(len(SERIES["light"])))
_REPLACED = {
    _INK: "currentColor",
    _FAINT: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_LINES)},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.color": _FAINT,
    "ytick.labelcolor": _INK,
    "font.size": 10,
}
_DASHES = ("-", "--", ":", "-.")
_MARKS = "os^DvPX<*>"


@dataclass(frozen=True)
class Chart:
    """A drawn chart; a template shows it as it is."""

    title: str
    svg: Markup

    def __html__(self) -> Markup:
        return self.svg


@dataclass(frozen=True)
class Dot:
    """One recipe in a plane of two measures."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class Curve:
    """One quantity over the optimizer steps, of one recipe."""

    name: str
    seeds: Sequence[Points]
    """A line each, thin; their mean is bold. A single one is bold itself."""


@dataclass(frozen=True)
class Bar:
    """A number with its interval, by name."""

    name: str
    value: float
    low: float | None
    high: float | None
    is_reference: bool = False
    """Drawn in ink: it is what the others are measured against."""


def require_matplotlib() -> None:
    """A `ValueError` that says how to install what draws the charts."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "unisd report draws its charts with matplotlib, which is not installed. pip install -e '.[report]'"
        ) from None


def curves(title: str, lines: Sequence[Curve], *, is_percent: bool = False, max_points: int = MAX_POINTS) -> Chart:
    """A chart of `LINES_PER_CHART` curves at most, with up to `max_points` of every seed."""

    def draw(figure: Figure, axes: Any) -> None:
        for number, curve in enumerate(lines):
            _draw_curve(axes, curve, _LINES[number], _DASHES[number], max_points)
        axes.set_xlabel("optimizer step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if is_percent:
            axes.set_ylim(-2, 102)
        if len(lines) > 1:
            figure.legend(loc="outside lower left", frameon=False, fontsize=9, ncols=1)

    return _svg(title, 3.6, 2.5 + (0.18 * len(lines) if len(lines) > 1 else 0), draw)


def _draw_curve(axes: Any, curve: Curve, colour: str, dash: str, max_points: int) -> None:
    seeds = [_thinned(points, max_points) for points in curve.seeds if points]
    if not seeds:
        return
    if len(seeds) > 1:
        for points in seeds:
            axes.plot(list(points), list(points.values()), dash, color=colour, linewidth=0.8, alpha=0.45)
    mean = mean_of(seeds)
    label = f"{curve.name} ({len(seeds)} seeds)" if len(seeds) > 1 else curve.name
    style: dict[str, Any] = {"linewidth": 2.2, "marker": "o" if len(mean) < 12 else None, "markersize": 3.5}
    axes.plot(list(mean), list(mean.values()), dash, color=colour, label=label, **style)


def intervals(title: str, bars: Sequence[Bar], *, unit: str, zero: bool = False) -> Chart:
    """A row per bar: a dot, its interval, and the number; `zero` marks where nothing differs."""

    def draw(_: Figure, axes: Any) -> None:
        for place, bar in enumerate(reversed(bars)):
            colour = _INK if bar.is_reference else _LINES[0]
            if bar.low is not None and bar.high is not None:
                axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot([bar.value], [place], "D" if bar.is_reference else "o", color=colour, markersize=6)
            number = f"{bar.value:+.1f}" if zero else f"{bar.value:.1f}"
            above: dict[str, Any] = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axes.annotate(number, (bar.value, place), **above)
        axes.set_yticks(range(len(bars)), [bar.name for bar in reversed(bars)])
        axes.set_ylim(-0.6, len(bars) - 0.2)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        if zero:
            axes.axvline(0, color=_INK, linewidth=1)
            # Where nothing differs the axis would span next to nothing.
            left, right = axes.get_xlim()
            axes.set_xlim(min(left, -5), max(right, 5))
        axes.set_xlabel(unit)

    width = max((len(bar.name) for bar in bars), default=0)
    return _svg(title, 3.6 + 0.05 * min(width, 30), 0.9 + 0.28 * len(bars), draw)


def plane(title: str, dots: Sequence[Dot], *, x_unit: str, y_unit: str) -> Chart:
    """A mark per recipe, named in a legend: names beside marks would lie on each other where recipes are alike."""

    def draw(figure: Figure, axes: Any) -> None:
        for number, dot in enumerate(sorted(dots, key=lambda dot: -dot.y)):
            is_open = number // len(_MARKS) % 2 == 1
            style: dict[str, Any] = {"markersize": 7, "markerfacecolor": "none" if is_open else None}
            colour = _LINES[number % LINES_PER_CHART]
            axes.plot([dot.x], [dot.y], _MARKS[number % len(_MARKS)], color=colour, label=dot.name, **style)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        axes.margins(x=0.12, y=0.15)
        axes.set_xlabel(x_unit)
        axes.set_ylabel(y_unit)

    return _svg(title, 4.6, max(3.0, 0.9 + 0.2 * len(dots)), draw)


def mean_of(seeds: Sequence[Points]) -> dict[float, float]:
    """Mean at every step that all of them have; at every step of any, where they share none."""
    shared = set.intersection(*(set(points) for points in seeds)) or set().union(*seeds)
    return {step: fmean(points[step] for points in seeds if step in points) for step in sorted(shared)}


def _thinned(points: Points, max_points: int) -> Points:
    steps = sorted(points)
    size = -(-len(steps) // max_points)
    if size <= 1:
        return {step: points[step] for step in steps}
    blocks = [steps[start : start + size] for start in range(0, len(steps), size)]
    return {block[-1]: fmean(points[step] for step in block) for block in blocks}


def _svg(title: str, width: float, height: float, draw: Callable[[Figure, Any], None]) -> Chart:
    # Not pyplot: it keeps figures alive and picks a window system.
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": title}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        draw(figure, axes)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, own in _REPLACED.items():
        text = text.replace(colour, own)
    # Only ids that something refers to: the others would come again in the next chart of the page.
    referred = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", text)
    # The numbers stand in tables as well; a screen reader gets the title.
    return Chart(title, Markup(text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(title)}" ', 1)))
