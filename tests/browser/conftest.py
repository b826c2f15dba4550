from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from tests.analyzer.command import analyzer
from tests.analyzer.made_host import HOSTILE, T0, make_week
from tests.needs import cannot_run

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENCE_MS = 120_000
ALLOWLIST = "*/build-1:*"
LOCAL = (0, 3, 4)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium, Debian's."""
    program = shutil.which("chromium")
    if program is None:
        cannot_run("chromium is not installed: run .ci/install-packages")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=FLAGS, timeout=PATIENCE_MS)
        yield made
        made.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a week that has prunes, a gap, full disks, jobs of projects, local images and a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    log = EventLog(folder / "events.duckdb", host="runner-7")
    make_week(log, local=LOCAL)
    thresholds = [part for share in (5, 20, 50, 80) for part in ("--threshold", f"{share}%")]
    done = analyzer(
        "report", "--log", str(log.path), *thresholds, "--allowlist", ALLOWLIST, "-o", str(folder / "report.html")
    )
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


@pytest.fixture(scope="session")
def young(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the first days of such a host."""
    folder = tmp_path_factory.mktemp("young")
    log = EventLog(folder / "events.duckdb", host="runner-new")
    make_week(log, hours=60)
    done = analyzer("report", "--log", str(log.path), "-o", str(folder / "report.html"))
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two such hosts, one of them with a hostile name, and one that is left out."""
    folder = tmp_path_factory.mktemp("fleet")
    for file, name in (("one", "runner-7"), ("two", HOSTILE)):
        make_week(EventLog(folder / f"{file}.duckdb", host=name))
    EventLog(folder / "empty.duckdb", host="runner-idle").append([Event(T0, Kind.DISK_SAMPLED, bytes=1)])
    chosen = ("--threshold", "20%", "--threshold", "80%", "--processes", "1")
    done = analyzer("report", "--log", str(folder / "*.duckdb"), *chosen, "-o", str(folder / "report.html"))
    assert done.returncode == 0, done.stderr
    return folder / "report.html"
