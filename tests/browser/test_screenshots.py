"""The pictures in the documents: `SCREENSHOTS=1` writes them again, from the page as it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.analyzer.command import analyzer
from tests.browser.conftest import PATIENCE_MS

pytestmark = [pytest.mark.browser, pytest.mark.slow]
IMAGES = Path(__file__).parents[2] / "docs" / "images"
# Of each picture its width, its height, whether it is dark, and the part of the page; empty: from its top.
PICTURES = {
    "report-light": (1180, 1300, False, ""),
    "report-dark": (1180, 1300, True, ""),
    "report-phone": (390, 1500, False, ""),
    "report-trade": (1180, 900, False, "section[aria-labelledby=h-trade]"),
    "report-images": (1180, 900, False, "#story"),
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's report."""
    path = tmp_path_factory.mktemp("demo") / "report.html"
    done = analyzer("demo", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size < 2_000_000
    return path


def test_every_picture_can_be_taken(browser: Browser, demo: Path, tmp_path: Path) -> None:
    assert {path.stem for path in IMAGES.glob("*.png")} == set(PICTURES)
    for name, (width, height, dark, part) in PICTURES.items():
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(demo.as_uri())
        page.wait_for_selector("html[data-ready=yes]", timeout=PATIENCE_MS)
        assert "recommended" in page.locator("#whatif").inner_text()
        taken = tmp_path / f"{name}.png"
        if part == "#story":
            page.locator("[data-view]:not([hidden]) button.image").first.click()
        if part:
            page.locator(part).screenshot(path=taken)
        else:
            page.screenshot(path=taken)
        assert taken.stat().st_size > 10_000
        if os.environ.get("SCREENSHOTS"):
            shutil.copy(taken, IMAGES)
        context.close()
