"""What CONTRIBUTING.md names is there: files, folders, names in them, and targets of make."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([^`\s]+)`", TEXT)))
PLACES = [place for place in NAMED if "/" in place or Path(place).suffix in {".py", ".md"}]
RECIPES = (
    *("an event kind", "an order", "a baseline", "a policy key", "a CI system", "a result column", "a metric"),
    *("a rule of `collector check`", "settings of another tool", "a change of the log's tables"),
)


def defined(path: Path) -> set[str]:
    """The names that a module defines at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


@pytest.mark.parametrize("place", PLACES)
def test_what_is_named_is_there(place: str) -> None:
    path, _, name = place.partition("::")
    assert (ROOT / path).exists()
    assert not name or name in defined(ROOT / path)


def test_targets_of_make_and_all_recipes_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", TEXT)) <= targets
    assert tuple(re.findall(r"^### (.+)$", TEXT, re.MULTILINE)) == RECIPES
    for recipe in TEXT.split("\n### ")[1:]:
        assert re.search(r"^1\. ", recipe, re.MULTILINE)
