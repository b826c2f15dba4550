"""What each way to install takes of a runner's disk, and how long it lasts: ``python -m bench install``.

pip has everything in its cache when the clock runs. Sizes are those of all files that the installation adds, with the
byte code that pip compiles unless `--no-compile` is given; the Debian package is unpacked, and includes the analyzer.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from collector.terminal import console
from tools import dist

# How the README calls a way that pip goes, and the extra that it asks for.
PIP_WAYS: Mapping[str, str] = {
    "`pip install docker-hindsight`": "",
    "`pip install 'docker-hindsight[analyzer]'`": "[analyzer]",
}
# As the first, without byte code.
PLAIN_WAY, PLAIN = "`pip install --no-compile docker-hindsight`", "--no-compile"
DEBIAN_WAY = "Debian package"
MB = 10**6


@dataclass(frozen=True)
class Weight:
    """What an installation adds, in bytes, and how many seconds it took."""

    bytes: int
    seconds: float


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, cwd=dist.ROOT)


def tree_bytes(folder: Path) -> int:
    """The bytes of all files below a folder, links not followed."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def wheel(folder: Path) -> Path:
    """Build the wheel for this machine."""
    _run(dist.ROOT / "tools/uv", "--quiet", "build", "--wheel", "--out-dir", folder)
    return next(folder.glob("*.whl"))


def by_pip(built: Path, extra: str, folder: Path, *options: str | Path, python: str = sys.executable) -> Weight:
    """Install a wheel with an extra into the environment at `folder`, which is made if it is missing.

    Args:
        built: the wheel.
        extra: the extra in brackets, or nothing.
        folder: the environment.
        *options: further ones of pip's.
        python: the interpreter of a new environment.
    """
    if not folder.exists():
        _run(python, "-m", "venv", folder)
    before, began = tree_bytes(folder), time.monotonic()
    _run(folder / "bin/pip", "install", "-qq", "--disable-pip-version-check", *options, f"{built}{extra}")
    seconds = time.monotonic() - began
    return Weight(tree_bytes(folder) - before, seconds)


def by_dpkg(package: Path, folder: Path) -> Weight:
    """Unpack a Debian package into `folder`."""
    began = time.monotonic()
    _run("dpkg-deb", "--extract", package, folder)
    seconds = time.monotonic() - began
    return Weight(tree_bytes(folder), seconds)


def main() -> None:
    """Measure, and print the README's table."""
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as name:
        folder = Path(name)
        built = wheel(folder)
        by_pip(built, "[analyzer]", folder / "cached")
        found = {PLAIN_WAY: by_pip(built, "", folder / "plain", PLAIN)}
        found |= {way: by_pip(built, extra, folder / f"environment{extra}") for way, extra in PIP_WAYS.items()}
        package = dist.debian_package("bookworm", folder / "deb")
        found[f"{DEBIAN_WAY} of {package.stat().st_size / MB:.0f} MB"] = by_dpkg(package, folder / "unpacked")
        rows = [(way, f"{one.bytes / MB:.0f} MB", f"{one.seconds:.0f} s") for way, one in found.items()]
    console.print_table(("WAY", "INSTALLED", "TOOK"), rows)
