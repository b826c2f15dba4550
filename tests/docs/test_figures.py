"""The figures on the first screen are those that the demo prints."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from analyzer.cli import app
from analyzer.commands import compare
from analyzer.data import mesa_files
from collector.eventlog.log import EventLog
from collector.job_sources import job_list
from collector.model.units import format_bytes
from tests.made_once import MESA, year_of_mesa

ROOT = Path(__file__).parents[2]
# How the README calls a row of the demo.
ROWS = {
    "docker-gc-24h": "`docker-gc`, 24 h",
    "prune-until-24h-built": "`docker image prune --filter until=24h`, daily",
    "prune below 5% free (forecast order), min age auto": "docker-hindsight, while less than 5 % is free",
    "prune below auto free (forecast order), min age auto": (
        "docker-hindsight by default: as much free as the host has needed"
    ),
}


def imported_once(year: Path) -> Callable[..., int]:
    """`import_jobs` of the shipped year, which takes ten seconds; on another disk it imports the same but for that."""

    def imported(jobs: Path, layers: Path, log: EventLog, disk: int, *rest: Any) -> int:
        assert (jobs, layers, log.host, rest[0]) == (*mesa_files(), MESA, 0)
        shutil.copy(year, log.path)
        with duckdb.connect(str(log.path)) as connection:
            total = "json_merge_patch(attributes, json_object('total_bytes', ?))"
            where = "WHERE kind = 'disk_sampled' RETURNING seq"
            changed = connection.execute(f"UPDATE event SET bytes = ?, attributes = {total} {where}", [disk, disk])
            assert len(changed.fetchall()) == 2
        return 0

    return imported


def test_the_readme_shows_what_the_demo_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = dict(re.findall(r"^\| (.+?) \| (.+? \| .+? \| .+? \| .+?) \|$", readme, re.MULTILINE))
    monkeypatch.setattr(compare, "_report_on_one", lambda *_: None)  # tests/browser looks at the report
    monkeypatch.setattr(job_list, "import_jobs", imported_once(year_of_mesa(tmp_path_factory)))
    figures: dict[str, list[str]] = {name: [] for name in ROWS}
    for disk in ((), ("--disk-size", "100GiB")):
        done = CliRunner().invoke(app, ["demo", "--format", "json", *disk], catch_exceptions=False)
        output = json.loads(done.stdout)
        assert f"{output['uses']:,} jobs, {output['images']:,} images" in readme
        for row in output["policies"]:
            if row["name"] in ROWS:
                figures[row["name"]] += [format_bytes(row["repulled_bytes"]), f"{row['disk_full']:,}"]
    assert {ROWS[name]: " | ".join(found) for name, found in figures.items()} == {
        name: shown[name] for name in ROWS.values()
    }
