"""The figures on the first screen are those that the demo prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_readme_shows_what_the_demo_prints(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = dict(re.findall(r"^\| (.+?) \| (.+? \| .+? \| .+? \| .+?) \|$", readme, re.MULTILINE))
    program = Path(sys.executable).with_name("analyzer")
    figures: dict[str, list[str]] = {name: [] for name in ROWS}
    for disk in ((), ("--disk-size", "100GiB")):
        done = subprocess.run(
            [program, "demo", "--format", "json", *disk], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        output = json.loads(done.stdout)
        assert f"{output['uses']:,} jobs, {output['images']:,} images" in readme
        for row in output["policies"]:
            if row["name"] in ROWS:
                figures[row["name"]] += [format_bytes(row["repulled_bytes"]), f"{row['disk_full']:,}"]
    assert {ROWS[name]: " | ".join(found) for name, found in figures.items()} == {
        name: shown[name] for name in ROWS.values()
    }
