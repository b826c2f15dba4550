"""``python -m bench NAME``: run one measurement; without a name, all of them but `torture`, which measures nothing."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

# `made` makes traces, for these and for tests.
NAMES = sorted({path.stem for path in Path(__file__).parent.glob("[!_]*.py")} - {"made"})
HELP = ("-h", "--help")


def usage() -> str:
    """Each measurement with what it is of."""
    width = max(map(len, NAMES))
    texts = {name: Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in NAMES}
    heads = {name: str(ast.get_docstring(ast.parse(text))).splitlines()[0] for name, text in texts.items()}
    lines = [f"  {name:{width}}  {head.partition(': ``python')[0]}" for name, head in heads.items()]
    return "\n".join(("usage: python -m bench [NAME ...]", "", *lines, "", str(__doc__)))


def main(argv: list[str]) -> int:
    """Run what is named, the one with the options that follow its name; the exit status."""
    if argv and argv[0] in HELP:
        sys.stdout.write(f"{usage()}\n")
        return 0
    count = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    names, options = argv[:count], argv[count:]
    if unknown := [name for name in names if name not in NAMES]:
        sys.stderr.write(f"bench: unknown '{unknown[0]}'; known are {', '.join(NAMES)}\n")
        return 2
    if names == ["torture"]:
        return int(importlib.import_module("bench.torture").main(options))
    if options:
        sys.stderr.write("bench: only `torture` has options, which follow its name\n")
        return 2
    for name in names or [name for name in NAMES if name != "torture"]:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        module = importlib.import_module(f"bench.{name}")
        (getattr(module, "main", None) or module.run)()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
