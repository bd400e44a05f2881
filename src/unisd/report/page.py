"""`unisd report`: one HTML file of a run or a study, without script, network or model."""

from __future__ import annotations

from pathlib import Path

from unisd.report.charts import require_matplotlib
from unisd.report.read import StudyRecord, read_folder
from unisd.report.run_page import run_page
from unisd.report.study_page import study_page
from unisd.report.template import html, write_html

REPORT_FILE = "report.html"
"""What the file is called in the folder, where nothing else is said."""


def report_html(folder: str | Path) -> str:
    """The page as text."""
    require_matplotlib()
    found = read_folder(Path(folder))
    page = study_page(found) if isinstance(found, StudyRecord) else run_page(found)
    return html("report.html", page=page)


def write_report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page, into the folder itself unless `output` says where; an earlier one is replaced."""
    path = Path(folder) / REPORT_FILE if output is None else Path(output)
    write_html(path, report_html(folder))
    return path
