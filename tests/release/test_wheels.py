"""The wheels: pip takes the one that fits, and the kernel loads where there is no compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.engine.machine import Machine
from tests.needs import cannot_run
from tests.release.test_debian_package import few_jobs
from tools import dist


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all wheels of this tree."""
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        cannot_run("gcc-aarch64-linux-gnu is not installed: run .ci/install-packages")
    folder = tmp_path_factory.mktemp("wheels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "DIST", folder)
        dist.wheels()
    return folder


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pip")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder / "bin" / "pip"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "processor"),
    [("manylinux_2_31_x86_64", "X86-64"), ("manylinux_2_31_aarch64", "AArch64"), ("musllinux_1_2_x86_64", None)],
)
def test_pip_takes_the_wheel_that_fits(
    wheels: Path, pip: Path, tmp_path: Path, platform: str, processor: str | None
) -> None:
    where: list[str | Path] = ["--no-index", "--find-links", wheels, "--dest", tmp_path]
    machine = ["--platform", platform, "--python-version", "3.14", "--only-binary", ":all:"]
    subprocess.run([pip, "download", "--quiet", "--no-deps", *where, *machine, "docker-hindsight"], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    kernel = "analyzer/native/_kernel.so"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "analyzer/report/page/charts.js" in names
        assert (kernel in names) == (processor is not None)
        if processor is not None:
            header = ["readelf", "--file-header", archive.extract(kernel, tmp_path)]
            assert processor in subprocess.run(header, check=True, capture_output=True, text=True).stdout


def test_duckdb_alone_has_no_wheel_for_musl() -> None:
    """As docs/operations.md and the README say."""
    export = ("export", "--quiet", "--frozen", "--no-dev", "--all-extras", "--no-emit-project", "--no-hashes")
    lines = subprocess.run([dist.ROOT / "tools/uv", *export], check=True, capture_output=True, text=True).stdout
    needed = {line.partition("==")[0] for line in lines.splitlines() if "==" in line and "win32'" not in line}
    lock = tomllib.loads((dist.ROOT / "uv.lock").read_text(encoding="utf-8"))
    for processor in ("x86_64", "aarch64"):
        fits = re.compile(rf"-any\.whl$|musllinux_\d+_\d+_{processor}\b")
        with_wheel = {
            package["name"]
            for package in lock["package"]
            if any(fits.search(wheel["url"]) for wheel in package.get("wheels", ()))
        }
        assert needed - with_wheel == {"duckdb"}


@pytest.mark.engine
@pytest.mark.slow
def test_without_a_compiler_the_kernel_loads_or_its_absence_is_reported(wheels: Path, bare: Machine) -> None:
    assert bare.run("sh", "-c", "command -v gcc cc clang || echo none").strip() == "none"
    bare.run("python3", "-m", "venv", "/root/venv")
    pip = ("/root/venv/bin/pip", "install", "--quiet", "--no-index", "--find-links", "/srv/wheels")
    native, pure = (next(wheels.glob(f"*{tag}.whl")) for tag in ("x86_64", "any"))
    for wheel in (native, pure):
        shutil.copy(wheel, bare.path("/root"))
    bare.run(*pip, f"/root/{native.name}[analyzer]", patience_s=600)
    bare.run("env", "PATH=/root/venv/bin:/usr/bin", "sh", "-exc", few_jobs("/root/venv/lib/python3*/site-packages"))
    report = ("report", "--log", "/root/few.duckdb", "--threshold", "10%", "-o", "/root/report.html")
    assert "kernel" not in bare.run("/root/venv/bin/analyzer", *report, patience_s=600)
    bare.run(*pip, "--force-reinstall", "--no-deps", f"/root/{pure.name}")
    loaded = "from analyzer.native.loader import load; print(load())"
    said = bare.run("/root/venv/bin/python", "-c", loaded)
    assert said.startswith("None\n")
    assert "simulating in plain Python, which takes much longer" in said
