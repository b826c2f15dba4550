"""Compiles the simulator's kernel into the wheel (or the source tree, for an editable install).

Where there is no C compiler the package is built without; the program then compiles the kernel at
its first use if it can, and does without if it cannot.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Run by hatchling before it collects the files of a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's interface
        """Compile, and name the wheel after the platform if that worked."""
        path = Path(self.root) / "analyzer" / "native" / "loader.py"
        spec = importlib.util.spec_from_file_location("loader", path)
        if spec is None or spec.loader is None:
            return
        library = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(library)
        if not library.compile_kernel(library.BUILT):
            self.app.display_warning("no C compiler: the simulator's kernel is left out of this build")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append("analyzer/native/_kernel.so")
