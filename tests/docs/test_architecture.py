"""The page on the architecture draws the rooms that there are, and what each holds."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_floors_are_those_that_import_linter_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    drawn = [block.partition("```")[0] for block in PAGE.split("```text\n")]
    for contract in contracts:
        if contract["name"].startswith("Rooms of"):
            (package,) = contract["containers"]
            (floors,) = (block for block in drawn if block.startswith(f"{package}/"))
            assert [line.removeprefix(f"{package}/").strip() for line in floors.splitlines()] == contract["layers"]


def test_each_room_is_listed_with_what_it_holds() -> None:
    rooms = [
        path for floor in ("collector", "pruner", "analyzer") for path in sorted(ROOT.glob(f"{floor}/*/__init__.py"))
    ]
    rows = [
        f"| `{path.parent.relative_to(ROOT)}` | {str(ast.get_docstring(ast.parse(path.read_text()))).splitlines()[0]} |"
        for path in rooms
    ]
    assert [line for line in PAGE.splitlines() if line.startswith("| `") and "/" in line.split("`")[1]] == rows
