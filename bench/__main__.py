"""``python -m bench NAME``: run one measurement; without a name, all of them but `torture`, which measures nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def main(argv: list[str]) -> int:
    """Run what is named, the one with the options that follow its name; the exit status."""
    count = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    names, options = argv[:count], argv[count:]
    if unknown := [name for name in names if name not in NAMES]:
        sys.stderr.write(f"bench: unknown '{unknown[0]}'; known are {', '.join(NAMES)}\n")
        return 2
    if names == ["torture"]:
        return int(importlib.import_module("bench.torture").main(options))
    if options:
        sys.stderr.write("bench: only `torture` has options, which stand behind its name\n")
        return 2
    for name in names or [name for name in NAMES if name != "torture"]:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        module = importlib.import_module(f"bench.{name}")
        (getattr(module, "main", None) or module.run)()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
