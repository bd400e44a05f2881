"""`unisd report`: one HTML file of a run or a study, without script, network or model."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unisd.report.charts import require_matplotlib
from unisd.report.parts import Page
from unisd.report.read import StudyRecord, read_folder
from unisd.report.run_page import run_page
from unisd.report.study_page import study_page
from unisd.report.template import html, write_html

REPORT_FILE = "report.html"
"""What the file is called in the folder, where nothing else is said."""
MAX_BYTES = 2_000_000
"""Of the file, so that it can be mailed; heat maps are left out to keep it."""
NUM_TOKENS = (1000, 200, 0)
"""Over all heat maps, tried in this order; a token with its card takes about a kilobyte."""


def report_html(folder: str | Path) -> str:
    """The page as text."""
    make, text = _maker(folder), ""
    for max_tokens in NUM_TOKENS:
        text = html("report.html", page=make(max_tokens=max_tokens))
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def write_charts(folder: str | Path, into: str | Path) -> list[Path]:
    """Write every chart of the page as an SVG file of its own, named by its title, in the theme of who looks at it."""
    page = _maker(folder)(max_tokens=0)
    paths = []
    for chart in (*(chart for one in page.comparisons for chart in one.charts), *page.curves):
        path = Path(into) / f"{re.sub(r'[^a-z0-9]+', '-', chart.title.lower()).strip('-')}.svg"
        end = chart.svg.index(">") + 1
        write_html(path, html("chart.svg", opening=chart.svg[:end], rest=chart.svg[end:]))
        paths.append(path)
    return paths


def _maker(folder: str | Path) -> Callable[..., Page]:
    require_matplotlib()
    found = read_folder(Path(folder))
    return partial(study_page, found) if isinstance(found, StudyRecord) else partial(run_page, found)


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page, into the folder itself unless `output` says where; an earlier one is replaced."""
    path = Path(folder) / REPORT_FILE if output is None else Path(output)
    write_html(path, report_html(folder))
    return path
