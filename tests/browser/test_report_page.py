from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from analyzer.simulation.figures import FIGURES
from tests.analyzer.command import analyzer
from tests.analyzer.made_host import HOSTILE, PROJECTS
from tests.browser.conftest import ALLOWLIST, PATIENCE_MS

pytestmark = pytest.mark.browser

Open = Callable[..., Page]
CHARTS = ("free", "tradeoff")


@contextmanager
def quiet(browser: Browser, report: Path) -> Iterator[Open]:
    """Opens the report; at the end nothing must have been said on the console, and no request have left."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(width: int = 1200, height: int = 900, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready=yes]", timeout=PATIENCE_MS)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert set(requests) == {report.as_uri()}


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Open]:
    with quiet(browser, report) as open_page:
        yield open_page


@pytest.fixture
def opened_fleet(browser: Browser, fleet: Path) -> Iterator[Open]:
    with quiet(browser, fleet) as open_page:
        yield open_page


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until a chart has been redrawn; what it then shows is the caller's to assert."""
    for _ in range(PATIENCE_MS // 100):
        if condition():
            return
        page.wait_for_timeout(100)


def place(page: Page, name: str) -> dict[str, float]:
    """Where a chart stands, once it is in sight."""
    chart = page.locator(f"#chart-{name} svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    return {"x": box["x"], "y": box["y"], "width": box["width"], "height": box["height"]}


def lines(page: Page) -> int:
    return page.locator("#chart-free .mark-line path").count()


def choose(page: Page, threshold: int, **choices: str) -> None:
    """Set the controls with the keyboard, and wait until the page follows."""
    for name, value in choices.items():
        page.locator(f"input[name={name}][value='{value}']").focus()
        page.keyboard.press("Space")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(threshold):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#t-policies tr.current')]"
        ".some((row) => row.dataset.run === document.documentElement.dataset.shown)"
    )


def test_it_renders_every_chart_and_runs_nothing_hostile(opened: Open) -> None:
    page = opened()
    for name in CHARTS:
        assert page.locator(f"#chart-{name} svg").bounding_box() is not None
        assert page.locator(f"#chart-{name} svg path").count() > 5
    assert page.locator("#chart-free .mark-rect path").count() >= 2  # the gap and the floor
    assert page.locator("#chart-free .mark-area path").count() >= 1  # what a peer left free
    assert page.title() == "runner-7: what its disk did, and what it would have done"
    assert page.locator("img").count() == 0
    assert page.get_by_text(PROJECTS[2]).count() >= 1
    assert {str(link.get_attribute("href"))[:1] for link in page.locator("a").all()} == {"#"}


# Of each combination that is tried: the threshold's place, counted from the end where it is negative, and each choice.
COMBINATIONS: tuple[tuple[int, dict[str, str]], ...] = (
    (0, {}),
    (-1, {"order": "lru", "min_age": "1h", "trigger": "timer only"}),
    (1, {"order": "hazard", "allowlist": "off"}),
    (2, {"order": "lru", "local_images": "keep"}),
    (3, {"min_age": "1h", "local_images": "evict", "allowlist": "off"}),
)


def test_every_setting_shows_what_simulate_says(opened: Open, report: Path, tmp_path: Path) -> None:
    page = opened()
    values = json.loads(page.get_by_role("slider").get_attribute("data-values") or "")
    offered: dict[str, list[str]] = {
        name: page.locator(f"input[name={name}]").evaluate_all(
            "all => all.map((one) => one.labels[0].firstChild.nextSibling.textContent)"
        )
        for name in ("order", "min_age", "local_images", "allowlist", "trigger")
    }
    assert all(len(choices) > 1 for choices in offered.values())
    names = {figure.label or figure.header.lower(): name for name, figure in FIGURES.items()}
    columns = [names[head.strip()] for head in page.locator("#t-policies thead th").all_text_contents()[1:]]
    assert columns[:3] == ["disk_full", "repulled_bytes", "min_free"]
    log, policy = str(report.parent / "events.duckdb"), tmp_path / "policy.toml"
    seen = set()
    for place, changed in COMBINATIONS:
        chosen = {name: changed.get(name, choices[0]) for name, choices in offered.items()}
        threshold = values[place]
        numbers = {name: str(offered[name].index(choice)) for name, choice in chosen.items()}
        choose(page, values.index(threshold), **numbers)
        spared = [ALLOWLIST] if chosen["allowlist"] == "on" else []
        policy.write_text(
            f'threshold = "{threshold}"\norder = "{chosen["order"]}"\nmin_age = "{chosen["min_age"]}"\n'
            f'local_images = "{chosen["local_images"]}"\nallowlist = {json.dumps(spared)}\n'
        )
        when = ("--trigger", "tick" if chosen["trigger"] == "timer only" else "event")
        asked = ("--policy", str(policy), *when, "--baseline", "none", "--format", "json")
        said = analyzer("simulate", "--log", log, *asked)
        (expected,) = json.loads(said.stdout)["policies"]
        cards = page.locator("#cards li").evaluate_all(
            "all => all.map((one) => [one.dataset.figure, one.dataset.value])"
        )
        assert {name: float(value) for name, value in cards} == {
            name: pytest.approx(expected[name]) for name, _ in cards
        }
        row = page.locator("#t-policies tr.current")
        assert row.get_attribute("aria-current") == "true"
        cells = [float(value) for value in row.locator("td").evaluate_all("all => all.map((one) => one.dataset.value)")]
        assert dict(zip(columns, cells, strict=True)) == {
            name: pytest.approx(expected[name], rel=1e-9, abs=1e-9) for name in columns
        }
        named = f"prune below {threshold} free ({chosen['order']} order"
        assert named in page.locator("#lead").inner_text()
        low = page.evaluate("Math.min(...page.datasets.free.filter((row) => row.front).map((row) => row.low))")
        assert low == pytest.approx(max(expected["min_free"], -0.15 * 40 * 2**30), abs=2**20)
        ring = page.evaluate(
            "page.datasets.policies.find((row) => row.run === Number(document.documentElement.dataset.shown))"
        )
        assert (ring["repulled"], ring["free"]) == (expected["repulled_bytes"], expected["min_free"])
        seen.add((expected["repulled_bytes"], expected["min_free"], expected["hit_ratio"]))
    assert len(seen) >= 3  # the settings make a difference on this history
    page.get_by_role("button", name="Back to the policy").press("Enter")
    expect(page.locator("#t-policies tr.current")).to_have_class(re.compile("chosen"))
    assert "recommended" in (page.get_by_role("slider").get_attribute("aria-valuetext") or "")
    expect(page.locator("#said")).to_contain_text("pulled again")


def test_a_story_opens_by_keyboard_and_leads_on(opened: Open) -> None:
    page = opened()
    button = page.locator("[data-view]:not([hidden]) button.image").first
    name = button.inner_text()
    button.focus()
    page.keyboard.press("Enter")
    story = page.get_by_role("dialog")
    expect(story.get_by_role("heading", level=2)).to_have_text(name)
    expect(story).to_contain_text("Uses by project")
    expect(story).to_contain_text("Layers shared with 11 other images")
    assert story.locator(".life").count() == 2
    other = story.locator("button.image").first
    following = other.inner_text()
    other.focus()
    page.keyboard.press("Enter")
    expect(story.get_by_role("heading", level=2)).to_have_text(following)
    page.keyboard.press("Escape")
    expect(story).to_be_hidden()
    assert button.evaluate("(one) => one === document.activeElement")
    page.get_by_label("Any image").fill("<img src=x")
    page.keyboard.press("Enter")
    expect(story.get_by_role("heading", level=2)).to_have_text(HOSTILE)
    assert page.locator("img").count() == 0


def test_a_young_log_says_so_and_recommends_nothing(browser: Browser, young: Path) -> None:
    with quiet(browser, young) as open_page:
        page = open_page()
        assert page.locator("h1").inner_text().startswith("Too little history to recommend a policy: 2.5 d")
        assert page.get_by_text("recommended").count() == 0
        choose(page, 9)
        assert page.locator("h1").inner_text().startswith("Too little history")
        expect(page.locator("#lead")).to_contain_text("prune below 11% free (forecast order)")


def test_a_fold_opens_with_the_keyboard(browser: Browser, young: Path) -> None:
    with quiet(browser, young) as open_page:
        page = open_page()
        fold = page.locator("button.fold").first
        rows = page.locator("#t-policies tbody tr:visible")
        before = rows.count()
        fold.focus()
        page.keyboard.press("Enter")
        assert fold.get_attribute("aria-expanded") == "true"
        assert rows.count() > before


def test_hover_says_what_a_point_is(opened: Open) -> None:
    page = opened()
    page.locator("#chart-tradeoff .points_marks path").first.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    expect(tip).to_contain_text("pulled again")
    expect(tip).to_contain_text("least free space")
    box = place(page, "free")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 90)
    expect(page.locator("#tip")).to_contain_text("(UTC)")
    expect(page.locator("#tip")).to_contain_text(re.compile(r"docker-gc-24h: .*\d+(\.\d+)? GiB free"))


def test_the_brush_and_the_buttons_zoom(opened: Open) -> None:
    page = opened()

    def axis() -> str:
        return str(page.locator("#chart-free .role-axis-label text").all_text_contents())

    whole = axis()
    box = place(page, "free")
    y = box["y"] + box["height"] - 50
    page.mouse.move(box["x"] + box["width"] * 0.5, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    page.mouse.up()
    wait_until(page, lambda: axis() != whole)
    assert axis() != whole
    page.get_by_role("button", name="Whole time").press("Enter")
    wait_until(page, lambda: axis() == whole)
    assert axis() == whole
    page.get_by_role("button", name="Lowest point").press("Enter")
    wait_until(page, lambda: axis() != whole)
    assert axis() != whole


def test_lines_are_chosen_with_the_keyboard(opened: Open) -> None:
    page = opened()
    before = lines(page)
    box = page.get_by_role("checkbox", name="prune-until-24h-local")
    box.focus()
    page.keyboard.press("Space")
    wait_until(page, lambda: lines(page) == before + 1)
    assert lines(page) == before + 1  # the lower edge of a band


def test_images_are_chosen_and_the_table_follows(opened: Open) -> None:
    page = opened()
    views = page.locator("#view option").all_inner_texts()
    assert any("pulled again and again" in name for name in views)
    assert any("kept without use" in name for name in views)
    page.locator("#view").select_option(views[-1])
    shown = page.locator("[data-view]:not([hidden])")
    assert shown.count() == 1
    assert views[-1] in shown.inner_text()
    # Each name has its life beside it.
    expect(shown.locator("tbody svg.life")).to_have_count(shown.locator("tbody tr").count())


def test_tables_sort_by_figures(opened: Open) -> None:
    page = opened()
    table = page.locator("section[aria-labelledby=h-policies] table")
    head = table.locator("th", has_text="pulled again").first
    for order in ("ascending", "descending"):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        values = [float(cell.get_attribute("data-value") or 0) for cell in table.locator("tbody td:nth-child(3)").all()]
        assert values == sorted(values, reverse=order == "descending")


def test_a_fleet_has_a_row_for_each_host_and_policy(opened_fleet: Open) -> None:
    page = opened_fleet()
    hosts, policies = 2, page.locator("section[aria-labelledby=h-sums] tbody tr").count()
    table = page.locator("section[aria-labelledby=h-policies] table")
    assert policies >= 3
    assert table.locator("tbody tr").count() == hosts * policies
    assert table.locator(".tag").count() == hosts
    assert "runner-7" in table.locator("tbody th").all_inner_texts()
    assert HOSTILE in table.locator("tbody th").all_inner_texts()
    assert page.locator("img:not(.heat img)").count() == 0
    assert "runner-idle is left out" in page.locator("section[aria-labelledby=h-left]").inner_text()
    for k in range(hosts):
        page.locator(f"#chart-tradeoff-{k}").scroll_into_view_if_needed()
        points = page.locator(f"#chart-tradeoff-{k} .points_marks path")
        points.first.wait_for()
        assert points.count() == policies
    # With its charts drawn, the page's script has run.
    head = table.locator("th", has_text="pulled again").first
    head.get_by_role("button").click()
    table.locator("th[aria-sort=ascending]").wait_for()
    values = [float(cell.get_attribute("data-value") or 0) for cell in table.locator("tbody td:nth-child(4)").all()]
    assert values == sorted(values)
