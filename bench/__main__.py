"""``python -m bench NAME``: run one measurement; without a name, all of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def main(argv: list[str]) -> int:
    """Run what is named; the exit status."""
    if unknown := [name for name in argv if name not in NAMES]:
        sys.stderr.write(f"bench: unknown '{unknown[0]}'; known are {', '.join(NAMES)}\n")
        return 2
    for name in argv or NAMES:
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        module = importlib.import_module(f"bench.{name}")
        (getattr(module, "main", None) or module.run)()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
