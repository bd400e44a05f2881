"""The pages in headless Chromium: silent, offline, as wide as the window, readable without JavaScript, in both themes.

Skipped where Playwright or a Chromium is not installed. The screenshots lie in pytest's folder, to be looked at.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.folders import HOSTILE, token_map, write_run, write_study
from unisd.report import HeatMap
from unisd.report.page import write_report
from unisd.report.template import clean

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEY_TEXTS = {
    "run": (
        "Honesty box",
        "Inert: contrastive.",
        "Curves",
        "before",
        "agreement/weight_mean",
        "Resolved configuration",
    ),
    "study": ("Honesty box", "Not in the table", "Recipes compared", "+29.2", "held-out prompt item-0", "sdft, seed 0"),
    "map": ("divergence", "agreement/weight_mean", "further tokens"),
}
WIDTHS = (400, 1280)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Tests may run as root, where Chromium refuses its sandbox; the pages are our own.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "run": write_report(write_run(folder / "run")),
        "study": write_report(write_study(folder / "study")),
        "map": HeatMap(token_map(), 1.0).save(folder / "map.html"),
    }


@pytest.mark.parametrize("name", KEY_TEXTS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_silent_offline_and_as_wide_as_the_window(browser, pages, tmp_path, name, theme):
    complaints: list[str] = []
    requests: list[str] = []
    backgrounds = set()
    for width in WIDTHS:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(pages[name].as_uri())
        title = page.title()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for text in KEY_TEXTS[name]:
            assert page.get_by_text(text).filter(visible=True).count(), text
        backgrounds.add(page.evaluate("getComputedStyle(document.querySelector('.unisd-map')).backgroundColor"))
        page.screenshot(path=tmp_path / f"{name}-{theme}-{width}.png", full_page=True)
        assert (tmp_path / f"{name}-{theme}-{width}.png").stat().st_size > 10_000
        assert title != "owned"
        page.close()
    assert complaints == []
    assert set(requests) <= {pages[name].as_uri(), "data:,"}
    assert backgrounds == {"rgb(255, 255, 255)" if theme == "light" else "rgb(20, 23, 28)"}


@pytest.mark.parametrize("name", KEY_TEXTS)
def test_without_javascript_the_texts_are_there_and_hovering_works(browser, pages, name):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 900})
    page = context.new_page()
    page.goto(pages[name].as_uri())
    for text in (*KEY_TEXTS[name], clean(HOSTILE)[:20]):
        assert page.get_by_text(text).filter(visible=True).count(), text
    token = page.locator(".unisd-map .t[tabindex]").nth(1)
    card = token.locator(".card")
    assert not card.is_visible()
    token.hover()
    assert card.is_visible()
    assert "student, likeliest" in card.inner_text()
    # The card spans the map and not more, wherever its token stands.
    box, frame = card.bounding_box(), page.locator(".unisd-map").first.bounding_box()
    assert box["x"] >= frame["x"]
    assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
    context.close()


def test_on_paper_the_page_is_light_whatever_the_theme(browser, pages):
    page = browser.new_page(color_scheme="dark")
    page.goto(pages["run"].as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    for selector in ("body", ".unisd-map", ".panel"):
        assert page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
    page.close()


def test_every_text_can_be_read_against_what_lies_behind_it(browser, pages):
    """Contrast of at least 4.5 for the texts of the page and of the heat map, in both themes (WCAG 2.2, AA)."""
    script = """() => {
        const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
        const light = colour => numbers(colour).slice(0, 3).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
            .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
        const behind = element => {
            for (let one = element; one; one = one.parentElement) {
                const colour = getComputedStyle(one).backgroundColor;
                if (numbers(colour)[3] !== 0) return colour;
            }
        };
        const poor = [];
        for (const element of document.querySelectorAll('p,li,td,th,dd,dt,h1,h2,h3,summary,pre,span,text')) {
            const text = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
            if (!text || !element.getClientRects().length) continue;
            const style = getComputedStyle(element);
            const [high, low] = [light(element.tagName === 'text' ? style.fill : style.color), light(behind(element))]
                .sort((a, b) => b - a);
            if ((high + 0.05) / (low + 0.05) < 4.5) poor.push(element.textContent.slice(0, 30));
        }
        return poor;
    }"""
    for theme in ("light", "dark"):
        for name in ("run", "study"):
            page = browser.new_page(color_scheme=theme)
            page.goto(pages[name].as_uri())
            assert page.locator("svg text").count() > 20
            assert page.evaluate(script) == [], (theme, name)
            page.close()
