"""A host with very many images and containers, on a real engine: ``python -m bench crowd``.

The images share one layer and differ in their configuration, so that the engine takes thousands of them in a minute;
the containers are created and never started.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from rich.text import Text

from bench._costs import Cost, of_command, private_engine
from collector.terminal import console
from tests.engine.engines import GIB, Engine
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


def main() -> None:
    """Fill an engine, run each command, and print what it took."""
    with private_engine("crowd", disk_bytes=8 * GIB, inodes=_INODES) as engine:
        for images, containers in ((IMAGES, 0), (IMAGES, CONTAINERS)):
            fill(engine, images, containers)
            console.print_line(Text(f"{images:,} images, {containers:,} containers"))
            for command, cost in measure(Host(engine, engine.folder / "log" / "events.duckdb")):
                console.print_line(Text(f"{command}: {cost.wall:.2f} s, {cost.peak / 2**20:.0f} MiB"))


def measure(host: Host) -> Iterator[tuple[str, Cost]]:
    """Run each command once."""
    return ((" ".join(argv), of_command(*host.command(*argv), environment=host.environment)) for argv in _COMMANDS)


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
