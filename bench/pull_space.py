"""The space that a pull takes for a while, beside what its image then holds: ``python -m bench pull_space``, as root.

Images of layers that do not compress are pulled from a registry on this machine, while free space is read each
millisecond or so. What was used at most, less what is used afterwards, is compared with the compressed top layer (what
is still there when the last layer is unpacked) and with the compressed layers in all.
"""

from __future__ import annotations

import gzip
import os
import tarfile
import threading
import time
from io import BytesIO
from pathlib import Path

from collector.terminal import console
from tests.engine import leftovers
from tests.engine.engines import VARIANTS, Engine, available
from tests.engine.registry import Registry, random_layer

MIB = 2**20
_SHAPES = {"largest first": (40, 20, 5), "largest last": (5, 20, 40), "one": (64,), "six alike": (12,) * 6}
_SETTLE_S = 2.0
_COLUMNS = ("ENGINE", "LAYERS, MIB", "HELD AFTERWARDS", "PEAK OVER THAT", "OF TOP LAYER", "OF ALL LAYERS")
# What ratio files of a usual image compress to.
_FOLDERS = ("/usr/bin", "/usr/lib/python3", "/usr/share/doc", "/etc")


def _least_free(engine: Engine, reference: str) -> tuple[int, int, int]:
    """Free bytes before a pull, the least during it, and afterwards."""
    disk, over, least = engine.image_disk, threading.Event(), [engine.image_disk.free()]

    def watch() -> None:
        while not over.is_set():
            least[0] = min(least[0], disk.free())
            time.sleep(0.001)

    client, watcher = engine.client(), threading.Thread(target=watch)
    before = disk.free()
    watcher.start()
    try:
        client.images.pull(reference)
    finally:
        over.set()
        watcher.join()
        client.close()
    os.sync()
    time.sleep(_SETTLE_S)
    return before, least[0], disk.free()


def compression() -> float:
    """The share of their bytes that files of this machine's distribution take when compressed as registries do it."""
    made, plain = BytesIO(), 0
    with (
        gzip.GzipFile(fileobj=made, mode="wb", compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for folder in _FOLDERS:
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK) and plain < 100 * MIB:
                    plain += path.stat().st_size
                    tar.add(path, recursive=False)
    return len(made.getvalue()) / max(1, plain)


def run() -> None:
    """Print a line for each engine and kind of image."""
    rows = []
    with leftovers.state_root() as root:
        registry = Registry(root / "registry")
        for variant in VARIANTS:
            if available(variant):
                continue
            with Engine(variant, root / variant, registry.host).running() as engine:
                for number, (name, sizes) in enumerate(_SHAPES.items()):
                    layers = [random_layer(1000 * number + k, size * MIB) for k, size in enumerate(sizes)]
                    image = registry.push_image(f"{variant}/{name.replace(' ', '-')}", "1", layers)
                    before, least, after = _least_free(engine, image.reference)
                    extra = after - least
                    shares = (f"{extra / (part * MIB):.2f}" for part in (sizes[-1], sum(sizes)))
                    rows.append(
                        [variant, f"{sizes}", f"{(before - after) / MIB:.0f} MiB", f"{extra / MIB:.0f} MiB", *shares]
                    )
        registry.stop()
    console.print_table(_COLUMNS, rows, right=_COLUMNS[2:])
    console.print_text(f"Files of a distribution compress to {compression():.2f} of their bytes.")
