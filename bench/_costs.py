"""What a command costs, and engines that commands are measured on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.engine import leftovers
from tests.engine.engines import GIB, Engine, available

# A process counts its parent's memory as its own until it runs its program, so a small one starts it.
_MEASURED = """
import resource, subprocess, sys, time
began = time.perf_counter()
status = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print()
print(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
sys.exit(status)
"""


@dataclass(frozen=True)
class Cost:
    """Wall and processor time of a command, seconds, its peak memory, bytes, and what it printed."""

    wall: float
    processor: float
    peak: int
    printed: bytes = b""


def of_command(*argv: str, environment: Mapping[str, str] = os.environ) -> Cost:
    """Run a command, its modules compiled once as any installation has them, and say what it cost."""
    compiled = {name: value for name, value in environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    measured = [sys.executable, "-c", _MEASURED, *argv]
    output = subprocess.run(measured, env=compiled, stdout=subprocess.PIPE, check=True).stdout  # noqa: S603 - ours
    printed, _, figures = output.rstrip().rpartition(b"\n")
    wall, processor, peak = figures.split()
    return Cost(float(wall), float(processor), int(peak), printed)


def processor_seconds(pid: int) -> float:
    """Seconds of processor time that a running process has used."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123 - short
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def private_engine(
    name: str, variant: str = "docker20", disk_bytes: int = GIB, inodes: int | None = None
) -> Iterator[Engine]:
    """An engine of our own, which needs no registry. Raises SystemExit where it cannot run here."""
    if reason := available(variant):
        raise SystemExit(f"bench: {reason}")
    with (
        leftovers.state_root() as root,
        Engine(variant, root / name, "127.0.0.1:1", disk_bytes, inodes).running() as engine,
    ):
        yield engine
