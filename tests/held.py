"""A log that another process holds, as whoever reads or writes it does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, *, readonly: bool = False) -> Iterator[None]:
    """Have another process hold a log meanwhile, by DuckDB's own lock: without the time that it takes to load."""
    opened, lock = f"file = open({str(path)!r}, 'rb+')", "LOCK_SH" if readonly else "LOCK_EX"
    code = f"import fcntl; {opened}; fcntl.lockf(file, fcntl.{lock}); print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield
    finally:
        holder.communicate(b"\n", timeout=60)
