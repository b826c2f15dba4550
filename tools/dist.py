"""Builds all that a release consists of into dist/: source, wheels, Debian packages, SBOM, checksums.

``python tools/dist.py [--only wheels,debs,...]``; each part is rebuilt.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pruner.install.units import Installation
from pruner.policy.file import to_toml
from pruner.policy.policy import Policy
from tools import bom

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_UV = ROOT / "tools" / "uv"
_DEBIAN = ROOT / "packaging" / "debian"
_PRIVATE = "usr/lib/docker-hindsight"
_COMMANDS = ("collector", "analyzer", "pruner")
# What wheels bring along that no command of ours reads: tests/release/unpacked.py tries each of their imports without.
_UNUSED = (
    *("bin", "**/__pycache__", "**/tests", "**/*.pyi", "_duckdb-stubs", "duckdb/experimental"),
    # What Rich shows source code and Markdown with, and shells' completion, which starts from an interactive shell.
    *("pygments*", "markdown_it*", "mdurl*"),
    *("numpy/f2py", "numpy/distutils", "numpy/_core/include", "numpy/_core/_*_tests.*.so", "numpy/_core/_simd.*.so"),
)


@dataclass(frozen=True, slots=True)
class Suite:
    """A Debian release.

    Attributes:
        revision: what its packages' versions end with.
        python: its Python's version.
    """

    revision: str
    python: tuple[int, int]


SUITES: Mapping[str, Suite] = {"bookworm": Suite("deb12u1", (3, 11)), "trixie": Suite("deb13u1", (3, 13))}


def source() -> None:
    """The source archive."""
    _uv("build", "--sdist", "--out-dir", DIST)


def wheels() -> None:
    """One wheel for each processor with the compiled kernel, and one without for all others; pip takes what fits."""
    for wanted in ("x86_64", "aarch64", "pure"):
        _uv("build", "--wheel", "--out-dir", DIST, DOCKER_HINDSIGHT_WHEEL=wanted)


def debs() -> None:
    """A Debian package for each release that has one."""
    for suite in SUITES:
        debian_package(suite, DIST)


def debian_package(suite: str, target: Path, version: str | None = None) -> Path:
    """Build the Debian package of one release.

    Args:
        suite: the release's code name.
        target: the folder to write it to.
        version: the package's version without its revision; None: the project's.

    Returns:
        The package.
    """
    release = SUITES[suite]
    full = f"{version or PROJECT['version']}-1~{release.revision}"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _libraries(tree / _PRIVATE, release)
        _launchers(tree / "usr/bin")
        _units(tree)
        _documents(tree / "usr/share/doc/docker-hindsight", full, tree / _PRIVATE)
        values = {
            "VERSION": full,
            "ARCHITECTURE": "amd64",
            "MAINTAINER": f"{PROJECT['authors'][0]['name']} <{PROJECT['authors'][0]['email']}>",
            "SIZE": str(sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file()) // 1024),
            "PYTHON": f"{release.python[0]}.{release.python[1]}",
            "NEXT_PYTHON": f"{release.python[0]}.{release.python[1] + 1}",
            "HOMEPAGE": PROJECT["urls"]["Homepage"],
        }
        _control(tree, values)
        made = target / f"docker-hindsight_{full}_amd64.deb"
        target.mkdir(parents=True, exist_ok=True)
        _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z6", "--build", tree, made)
    return made


def _libraries(folder: Path, release: Suite) -> None:
    """The project and all that it needs, for another Python than the one that runs this."""
    major, minor = release.python
    with tempfile.TemporaryDirectory() as made:
        _uv("build", "--wheel", "--out-dir", made, DOCKER_HINDSIGHT_WHEEL="x86_64")
        (wheel,) = Path(made).glob("*.whl")
        wanted = Path(made) / "requirements.txt"
        _uv(*_EXPORT, "--extra", "analyzer", "--extra", "gitlab", "--no-emit-project", "--no-hashes", "-o", wanted)
        platform = ("--python-version", f"{major}.{minor}", "--python-platform", "x86_64-manylinux_2_31")
        # Copies: a hard link shares its mode and times with the cache and with every other environment.
        install = ("pip", "install", "--link-mode", "copy", "--target", folder, "--no-deps", *platform)
        _uv(*install, "--only-binary", ":all:", "--requirements", wanted)
        _uv(*install, wheel)
    for pattern in _UNUSED:
        for path in sorted(folder.glob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


_EXPORT = ("export", "--frozen", "--no-dev", "--no-header", "--no-annotate")


def _launchers(folder: Path) -> None:
    """The commands: the system's Python, seeing nothing but its own library and ours."""
    folder.mkdir(parents=True)
    for name in _COMMANDS:
        path = folder / name
        path.write_text(
            f'#!/usr/bin/python3 -I\nimport sys\n\nsys.path.insert(0, "/{_PRIVATE}")\n'
            f"from collector.entry import {name}\n\n{name}()\n",
            encoding="utf-8",
        )
        path.chmod(0o755)


def _units(tree: Path) -> None:
    """Units, user and folders as `pruner install-units` writes them, at the places that are a package's."""
    wanted = Installation(tree, Path("/usr/bin"))
    places = {"etc/systemd/system": "usr/lib/systemd/system"}
    for path, text in wanted.files().items():
        place = places.get(str(path.parent), str(path.parent).replace("etc/", "usr/lib/", 1))
        _write(tree / place / path.name, text.replace("`pruner install-units`", "the package"))
    _write(tree / wanted.policy.relative_to("/"), to_toml(Policy()))


def _documents(folder: Path, version: str, libraries: Path) -> None:
    folder.mkdir(parents=True)
    values = {"HOMEPAGE": PROJECT["urls"]["Homepage"]}
    _write(folder / "copyright", _filled((_DEBIAN / "copyright").read_text(encoding="utf-8"), values))
    entry = (
        f"docker-hindsight ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n"
        f" -- {PROJECT['authors'][0]['name']} <{PROJECT['authors'][0]['email']}>  Thu, 01 Jan 1970 00:00:00 +0000\n"
    )
    for name, text in (
        ("changelog.Debian.gz", entry),
        ("CHANGELOG.md.gz", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")),
    ):
        (folder / name).write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    sbom(folder / "sbom.cdx.json", libraries)
    overrides = folder.parents[1] / "lintian/overrides"
    _write(overrides / "docker-hindsight", (_DEBIAN / "lintian-overrides").read_text(encoding="utf-8"))


def _control(tree: Path, values: Mapping[str, str]) -> None:
    folder = tree / "DEBIAN"
    folder.mkdir()
    for name in ("control", "preinst", "postinst", "prerm", "postrm"):
        path = folder / name
        path.write_text(_filled((_DEBIAN / name).read_text(encoding="utf-8"), values), encoding="utf-8")
        path.chmod(0o644 if name == "control" else 0o755)
    _write(folder / "conffiles", "/etc/docker-hindsight/policy.toml\n")
    sums = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_relative_to(folder) and not path.is_relative_to(tree / "etc")
    ]
    _write(folder / "md5sums", "".join(sums))


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def sbom(path: Path = DIST / "sbom.cdx.json", libraries: Path | None = None) -> None:
    """The software bill of materials, as CycloneDX: all that an installation may bring along, or what a folder has."""
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "bom.json"
        _uv("export", "--frozen", "--no-dev", "--all-extras", "--format", "cyclonedx1.5", "--output-file", exported)
        made = bom.completed(json.loads(exported.read_bytes()), libraries)
    _write(path, json.dumps(made, indent=2) + "\n")


def checksums() -> None:
    """The SHA-256 of each file, as `sha256sum --check` reads it."""
    files = sorted(path for path in DIST.iterdir() if path.is_file() and path.name not in {"SHA256SUMS", ".gitignore"})
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    _write(DIST / "SHA256SUMS", "".join(lines))


PARTS = {"source": source, "wheels": wheels, "debs": debs, "sbom": sbom, "checksums": checksums}


def _uv(*argv: str | Path, **environment: str) -> None:
    _run(_UV, "--quiet", *argv, **environment)


def _run(*argv: str | Path, **environment: str) -> None:
    done = subprocess.run(
        argv, env={**os.environ, **environment}, check=False, capture_output=True, text=True, cwd=ROOT
    )
    if done.returncode:
        raise SystemExit(f"dist: {' '.join(map(str, argv[:4]))}: {done.stderr.strip() or done.stdout.strip()}")


def main(parts: Iterable[str]) -> None:
    """Make the parts, and list what there is then."""
    wanted = list(parts)
    if set(wanted) == set(PARTS):  # what an older version left would be published with this one
        shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(exist_ok=True)
    for name in wanted:
        PARTS[name]()
    for path in sorted(DIST.iterdir()):
        if path.name != ".gitignore":
            print(f"{path.stat().st_size / 2**20:7.1f} MiB  {path.name}")  # noqa: T201 - a script's output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    main(parser.parse_args().only.split(","))
