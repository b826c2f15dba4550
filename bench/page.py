"""How soon the reports of a year and of a fleet show their charts in Chromium: ``python -m bench page``.

The fleet's thousand hosts are copies of the year that ships with the program: each with a name of its own, its re-pulls
more by a share of its own, and its free space some days later.

Each time in a new browser context: from the start of the navigation to the file until the charts are drawn and the
controls work, by the page's own clock, and the processor time of the page's main thread until then, which other work on
the machine does not lengthen. The charts of a fleet's hosts are drawn later, as they come near. The median stands
before the least and the most.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from analyzer.report.fleet_page import fleet_study, write_fleet_report
from analyzer.report.study import Lineup
from analyzer.search.fleet import Findings, Simulation
from analyzer.search.grid import grid
from analyzer.search.proposal import Proposal
from analyzer.trace.load import load_trace
from bench._traces import mesa_log
from collector.model.units import format_bytes
from collector.terminal import console

TIMES = 9
HOSTS = 1000
VIEWPORTS = ((1200, 900), (390, 800))
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
_PATIENCE_MS = 120_000
_NOTE_READY = """
new MutationObserver(() => {
  const own = document.documentElement.dataset;
  if (own.ready === "yes" && !own.readyMs) own.readyMs = performance.now();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-ready"] });
"""


def year_report(path: Path) -> None:
    """Write the report of the year that ships with the program."""
    argv = [Path(sys.executable).with_name("analyzer"), "demo", "--output", path]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own program


def fleet_report(path: Path) -> None:
    """Write the report of `HOSTS` hosts under 16 policies."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        trace = load_trace(mesa_log(Path(folder)))
    policies = tuple(item.policy for item in grid({"threshold": ["5%:80%:5%"]})[0])
    chosen = policies[1]
    found = Simulation(policies, drawn=chosen)(trace)
    lineup = Lineup.of(policies, Proposal(chosen, holds=True, name=str(chosen)))
    write_fleet_report(fleet_study([_copy(found, number) for number in range(HOSTS)], lineup), path)


def _copy(found: Findings, number: int) -> Findings:
    facts = replace(found.facts, host=f"runner-{number:04}.example.org")
    more = 1 + number % 97 / 100
    results = [replace(result, repulled_bytes=int(more * result.repulled_bytes)) for result in found.results]
    assert found.free is not None  # noqa: S101 - it was asked for
    shares, later = found.free.shares, number % len(found.free.shares)
    return replace(
        found, facts=facts, results=tuple(results), free=replace(found.free, shares=shares[later:] + shares[:later])
    )


def ready_seconds(browser: Browser, report: Path, width: int, height: int) -> tuple[float, float]:
    """Seconds until the charts are ready, and processor seconds of the main thread until then."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(_PATIENCE_MS)
    page = context.new_page()
    page.add_init_script(_NOTE_READY)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready-ms]")
    metrics = {row["name"]: row["value"] for row in session.send("Performance.getMetrics")["metrics"]}
    seconds = float(page.evaluate("document.documentElement.dataset.readyMs")) / 1000
    context.close()
    return seconds, float(metrics["TaskDuration"])


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    """Measure, and print a row for each width."""
    program = shutil.which("chromium")
    if program is None:
        sys.stderr.write("bench page: chromium is not installed: run .ci/install-packages\n")
        return
    rows = []
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_FLAGS, timeout=_PATIENCE_MS)
        for name, write in (("a year", year_report), (f"{HOSTS:,} hosts", fleet_report)):
            report = Path(folder) / "report.html"
            write(report)
            size = format_bytes(report.stat().st_size)
            for width, height in VIEWPORTS:
                found = [ready_seconds(browser, report, width, height) for _ in range(TIMES)]
                rows.append((f"{name}, {width} px", size, *(_spread(column) for column in zip(*found, strict=True))))
        browser.close()
    console.print_table(("PAGE", "SIZE", "CHARTS READY", "PROCESSOR TIME"), rows)
