"""The report can be read in either light, on a phone, on paper, and without eyes or mouse."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.browser.test_report_page import CHARTS, Open, opened, opened_fleet  # noqa: F401 - a fixture

pytestmark = pytest.mark.browser
# Relative luminance and contrast as WCAG 2.2 defines them, of computed colours.
CONTRAST = """
() => {
  const parse = (text) => {
    const parts = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith("color(") ? 1 : 255;
    return { rgb: parts.slice(0, 3).map((c) => c / scale), alpha: parts[3] ?? 1 };
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    const over = (under, { rgb, alpha }) => under.map((c, k) => c * (1 - alpha) + rgb[k] * alpha);
    return layers.reverse().reduce(over, [1, 1, 1]);
  };
  const poor = [];
  const text = "h1, h2, p, li, label, th, td, summary, figcaption, button, .tag, select";
  for (const node of document.querySelectorAll(text)) {
    if (!node.offsetParent || !node.textContent.trim()) continue;
    const a = light(parse(getComputedStyle(node).color).rgb), b = light(ground(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_either_light(opened: Open, scheme: str) -> None:  # noqa: F811
    page = opened(color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    fill = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (fill == "rgb(255, 255, 255)") == (scheme == "light")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_does_not_scroll_sideways(opened: Open, width: int) -> None:  # noqa: F811
    page = opened(width=width, height=800)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    failed = page.locator("#t-policies thead th", has_text="failed").bounding_box()
    assert failed is not None
    assert failed["x"] + failed["width"] <= width
    for name in CHARTS:
        box = page.locator(f"#chart-{name} svg").bounding_box()
        assert box is not None
        assert box["width"] <= width


def test_it_prints(opened: Open, tmp_path: Path) -> None:  # noqa: F811
    page = opened(color_scheme="dark")
    path = tmp_path / "report.pdf"
    page.pdf(path=path, format="A4")
    assert path.read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for control in ("#whatif", "#view", "#find", "[data-zoom=all]", ".chip input"):
        assert not page.locator(control).first.is_visible()
    # A head with a button's box in it would stand on the first page of its table only.
    heads = page.locator("thead button").evaluate_all("all => all.map((one) => getComputedStyle(one).display)")
    assert set(heads) == {"contents"}


def test_times_are_reported_by_the_day_and_the_hour_of_24(opened: Open) -> None:  # noqa: F811
    page = opened()
    labels = page.locator("#chart-free .role-axis-label text").all_text_contents()
    assert {"Nov 15", "Nov 21", "12:00"} <= set(labels)
    assert not [label for label in labels if label.endswith((" AM", " PM"))]


def test_it_can_be_used_without_eyes_or_mouse(opened: Open) -> None:  # noqa: F811
    page = opened()
    levels = [int(tag[1]) for tag in page.locator("h1, h2, h3").evaluate_all("all => all.map((one) => one.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
    for figure in page.locator("figure").all():
        for attribute in ("aria-labelledby", "aria-describedby"):
            (name,) = (figure.get_attribute(attribute) or "").split()
            assert page.locator(f"#{name}").inner_text().strip()
        assert "table" in (figure.locator(".chart").get_attribute("aria-label") or "")
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th:not([scope=col])").count() == 0
        assert table.locator("tbody tr:not(:has(th[scope=row]))").count() == 0
    for region in page.locator(".scroll").all():
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("aria-label")
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.get_by_role("radio", name=re.compile(r"^forecast\W+recommended$")).count() == 1
    for control in page.locator("input, select").all():
        assert control.evaluate("(one) => one.labels.length") == 1


@pytest.mark.parametrize("width", [320, 390])
def test_a_fleet_fits_a_phone_and_is_legible(opened_fleet: Open, width: int) -> None:  # noqa: F811
    page = opened_fleet(width=width, height=800, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    failed = page.locator("section[aria-labelledby=h-sums] thead th", has_text="failed").bounding_box()
    assert failed is not None
    assert failed["x"] + failed["width"] <= width
    assert page.evaluate(CONTRAST) == []
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
