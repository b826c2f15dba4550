"""Run by the Python of a machine: is anything missed of what was left out of the package?

``python3 -I unpacked.py FOLDER OTHER...`` imports each module of ours from FOLDER, then all that their functions import
when they are called, and shows the help of each command. OTHER: what only other extras bring along. It prints how much
it tried, and ends with a line for each failure.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("collector", "pruner", "analyzer")


def modules() -> Iterator[tuple[str, Path]]:
    """Each module of ours, and its source."""
    for package in map(importlib.import_module, PACKAGES):
        found = (module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."))
        for name in (package.__name__, *found):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
                yield name, Path(spec.origin)


def imports(source: Path) -> Iterator[str]:
    """What a module imports anywhere, but for what only a type checker reads."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    conditions = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    unread = {inner for condition in conditions for inner in ast.walk(condition)}
    for node in ast.walk(tree):
        if node not in unread and isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif node not in unread and isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command, each group before its own."""
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


def import_failures(names: set[str], others: set[str]) -> Iterator[str]:
    for name in sorted(names):
        try:
            importlib.import_module(name)
        except ImportError as failure:
            if (failure.name or "").partition(".")[0] not in others:
                yield f"{name}: {failure}"


def help_of(package: str) -> Iterator[tuple[str, bool]]:
    """Each command, and whether it shows its help."""
    import typer  # noqa: PLC0415 - from the package

    group = typer.main.get_command(importlib.import_module(f"{package}.cli").app)
    for words in commands(group):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            group([*words, "--help"], prog_name=package)
        yield " ".join((package, *words)), "--help" in printed.getvalue()


def main(folder: str, *others: str) -> None:
    """Try all, and say how much that was."""
    sys.path.insert(0, folder)
    names = {name for module, source in modules() for name in (module, *imports(source))}
    failures = list(import_failures(names, set(others)))
    shown = dict(pair for package in PACKAGES for pair in help_of(package))
    failures += [f"{command}: no help" for command, good in shown.items() if not good]
    if failures:
        raise SystemExit("\n".join(failures))
    print(f"{len(names)} imports, {len(shown)} commands")  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main(*sys.argv[1:])
