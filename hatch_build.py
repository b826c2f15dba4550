"""Makes what a build adds to the sources: the simulator's compiled kernel, and the script that draws the charts.

`DOCKER_HINDSIGHT_WHEEL` says which wheel is wanted:

- unset: one for this machine. Where there is no C compiler it is pure; the program then compiles the
  kernel at its first use if it can, and does without if it cannot.
- ``x86_64`` or ``aarch64``: one for any Linux of that processor with glibc 2.31 or newer. The build fails
  if it cannot be made, or would need more.
- ``pure``: one without the kernel, for all other machines.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import vl_convert
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GLIBC = (2, 31)
CHARTS = "analyzer/report/page/charts.js"


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Run by hatchling before it collects the files of a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's interface
        """Make both, and name the wheel after the machines that it is for."""
        root = Path(self.root)
        (root / CHARTS).write_text(vl_convert.javascript_bundle(), encoding="utf-8")
        build_data["artifacts"].append(CHARTS)
        wanted = os.environ.get("DOCKER_HINDSIGHT_WHEEL", "")
        if wanted == "pure":
            return
        loader = _loader(root)
        built = root / "build" / f"kernel-{wanted}.so" if wanted else loader.BUILT
        if not loader.compile_kernel(built, _compiler(wanted)):
            if wanted:
                raise RuntimeError(f"the kernel cannot be compiled for {wanted}: install a C compiler for it")
            self.app.display_warning("no C compiler: the simulator's kernel is left out of this build")
            return
        tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if wanted:
            _check_glibc(built)
            tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}_{wanted}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{tag}"
        build_data["force_include"][str(built)] = "analyzer/native/_kernel.so"


def _loader(root: Path) -> ModuleType:
    """The module that compiles the kernel; the package itself cannot be imported during its build."""
    spec = importlib.util.spec_from_file_location("loader", root / "analyzer" / "native" / "loader.py")
    if spec is None or spec.loader is None:
        raise RuntimeError("analyzer/native/loader.py is missing from the sources")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader


def _compiler(processor: str) -> str | None:
    """The compiler for a processor; None: this machine's own."""
    if not processor or processor == platform.machine():
        return None
    found = shutil.which(f"{processor}-linux-gnu-gcc")
    if found is None:
        package = f"gcc-{processor.replace('_', '-')}-linux-gnu"
        raise RuntimeError(f"no C compiler for {processor}: install Debian's {package}")
    return found


def _check_glibc(library: Path) -> None:
    """Raise RuntimeError if the kernel needs a newer glibc than its wheel's name promises."""
    shown = subprocess.run(["readelf", "--version-info", library], capture_output=True, text=True, check=True).stdout  # noqa: S603, S607
    needed = {(int(major), int(minor)) for major, minor in re.findall(r"GLIBC_(\d+)\.(\d+)", shown)}
    if not needed or max(needed) > GLIBC:
        raise RuntimeError(f"the kernel needs glibc {max(needed, default='?')}: build it on an older system")
