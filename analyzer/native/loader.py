"""The compiled kernel (`kernel.c`): found beside the source, or in the user's cache, or compiled there once.

C through ctypes rather than a compiler of Python: it loads in a millisecond, while importing numba
and its cached code takes most of a second, which is the time that a whole simulation may take.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from functools import lru_cache
from pathlib import Path

SOURCE = Path(__file__).with_name("kernel.c")
"""Includes the parts in the folder `csrc`."""
BUILT = Path(__file__).with_name("_kernel.so")
# Contraction into fused operations would round differently than Python does.
FLAGS = ("-O3", "-std=c99", "-fPIC", "-shared", "-ffp-contract=off")
_SECONDS = 60.0


def compiler() -> str | None:
    """The C compiler of this machine, if it has one."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def compile_kernel(target: Path, program: str | None = None) -> bool:
    """Compile the kernel to a shared library; whether that worked.

    Args:
        target: where to write it.
        program: the C compiler; None: this machine's own.
    """
    program = program or compiler()
    if program is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [program, *FLAGS, f"-DSOURCE_CRC={_checksum()}u", "-o", str(made), str(SOURCE), "-lm"]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return False
        if done.returncode != 0:
            return False
        made.replace(target)  # whole or not at all: another process may do the same
    return True


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The kernel, or None where there is none; that, and a compilation, is reported once on stderr."""
    from collector.model import environment  # noqa: PLC0415 - the build, which has no packages of ours, loads this file

    if os.environ.get(environment.PURE_PYTHON):
        return None
    found = _opened(BUILT) or _opened(cached())
    if found is None and compiler() is not None:
        _say("compiling the simulator's kernel, once")
        try:
            found = _opened(cached()) if compile_kernel(cached()) else None
        except OSError as error:
            _say(f"cannot write {cached().parent}: {error.strerror}")
    if found is None:
        _say("no compiled kernel and no C compiler that works: simulating in plain Python, which takes much longer")
    return found


def cached() -> Path:
    """Where this user's compiled kernel is kept."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = f"kernel-{_checksum():08x}-{platform.machine()}.so"
    return Path(home).expanduser() / "docker-hindsight" / name


def _opened(path: Path) -> ctypes.CDLL | None:
    """The library, if it is there, ours and made from the present source."""
    try:
        if path.stat().st_uid not in {0, os.geteuid()}:
            return None
        found = ctypes.CDLL(str(path))
        found.kernel_source.restype = ctypes.c_uint32
        return found if found.kernel_source() == _checksum() else None
    except (OSError, AttributeError):
        return None


@lru_cache(maxsize=1)
def _checksum() -> int:
    checksum = 0
    for path in (SOURCE, *sorted(SOURCE.with_name("csrc").glob("*.[ch]"))):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return checksum


def _say(text: str) -> None:
    print(f"analyzer: {text}", file=sys.stderr)  # noqa: T201 - a library's notice, not a command's output
