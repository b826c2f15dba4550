"""A host with very many images and containers, on a real engine: ``python -m bench crowd``.

The images share one layer and differ in their configuration, so that the engine takes thousands of them in a minute;
the containers are created and never started.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.text import Text

from collector.terminal import console
from tests.engine import leftovers
from tests.engine.engines import GIB, Engine, available
from tests.engine.host import Host

IMAGES = 10_000
CONTAINERS = 5_000
_AT_ONCE = 1_000
_WRITERS = 8
_INODES = 500_000
# What a host does again and again, and what an operator asks.
_COMMANDS = (
    ("collector", "run", "--once"),
    ("collector", "run", "--once"),
    ("collector", "status"),
    ("collector", "images"),
    ("pruner", "plan", "--threshold", "100%", "--min-age", "1s"),
)


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds, and bytes of memory at most."""

    command: str
    seconds: float
    memory: int


def main() -> int:
    """Fill an engine, run each command, and print what it took."""
    if reason := available("docker20"):
        sys.stderr.write(f"bench: {reason}\n")
        return 2
    leftovers.sweep()
    root = leftovers.make_state_root()
    try:
        engine = Engine("docker20", root / "crowd", "127.0.0.1:1", 8 * GIB, _INODES)
        try:
            engine.start()
            for images, containers in ((IMAGES, 0), (IMAGES, CONTAINERS)):
                fill(engine, images, containers)
                console.print_line(Text(f"{images:,} images, {containers:,} containers"))
                for cost in measure(Host(engine, engine.folder / "log" / "events.duckdb")):
                    console.print_line(Text(f"{cost.command}: {cost.seconds:.2f} s, {cost.memory / 2**20:.0f} MiB"))
        finally:
            engine.remove()
    finally:
        leftovers.remove(root)
    return 0


def measure(host: Host) -> Iterator[Cost]:
    """Run each command once."""
    return (_cost(host, argv) for argv in _COMMANDS)


def _cost(host: Host, argv: tuple[str, ...]) -> Cost:
    began = time.monotonic()
    with Path(os.devnull).open("wb") as nowhere:
        process = subprocess.Popen(host.command(*argv), env=host.environment, stdout=nowhere)  # noqa: S603
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
    return Cost(" ".join(argv), time.monotonic() - began, used.ru_maxrss * 1024)


def fill(engine: Engine, images: int, containers: int) -> None:
    """Have the engine hold so many images and containers at least."""
    with ThreadPoolExecutor(_WRITERS) as pool:
        client = engine.client()
        there = len(client.api.images(quiet=True))
        for first in range(there, images, _AT_ONCE):
            archive = _archive(range(first, min(images, first + _AT_ONCE)))
            # It is loaded once all that the engine says of it has come.
            for _ in cast("Any", client.api).load_image(archive):
                pass

        def create(number: int) -> None:
            client.api.create_container(f"crowd:{number % images}", ["true"], host_config=settings)

        settings = client.api.create_host_config(network_mode="none")
        there = len(client.api.containers(all=True, quiet=True))
        list(pool.map(create, range(there, containers)))
        client.close()


def _archive(numbers: range) -> bytes:
    """Images as `docker save` writes them, which share one layer."""
    layer = _tar({"file": b"crowd"})
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    files, manifest = {"layer.tar": layer}, []
    for number in numbers:
        config = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["true"], "Labels": {"number": str(number)}},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "crowd"}],
        }
        name = f"{number}.json"
        files[name] = json.dumps(config).encode()
        manifest.append({"Config": name, "RepoTags": [f"crowd:{number}"], "Layers": ["layer.tar"]})
    return _tar({**files, "manifest.json": json.dumps(manifest).encode()})


def _tar(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


if __name__ == "__main__":
    sys.exit(main())
