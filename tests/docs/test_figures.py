"""The figures on the first screen are those that the demo prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyzer.cli import app
from analyzer.commands import compare
from collector.model.units import format_bytes

ROOT = Path(__file__).parents[2]
# How the README calls a row of the demo.
ROWS = {
    "docker-gc-24h": "`docker-gc`, 24 h",
    "prune-until-24h-built": "`docker image prune --filter until=24h`, daily",
    "prune below 5% free (forecast order), min age auto": "docker-hindsight, while less than 5 % is free",
    "prune below auto free (forecast order), min age auto": (
        "docker-hindsight as it comes: as much free as the host has needed"
    ),
}


def test_the_readme_shows_what_the_demo_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = dict(re.findall(r"^\| (.+?) \| (.+? \| .+? \| .+? \| .+?) \|$", readme, re.MULTILINE))
    monkeypatch.setattr(compare, "_report_on_one", lambda *_: None)  # tests/browser looks at the report
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
