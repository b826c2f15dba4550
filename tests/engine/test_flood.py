"""Nothing is lost under a flood of events, also while the log cannot be written."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.disk import LoopDisk
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer

pytestmark = pytest.mark.engine
EVENTS = 6000
FULL = "no space left for the event log"
# What holds the log as a reader does that forgot to close it.
HOLDER = "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print('held', flush=True); input()"


def flood(engine: Engine, reference: str, name: str, pairs: int) -> None:
    """Tag and untag: two events each."""
    client = engine.client()
    image = client.images.get(reference)
    for k in range(pairs):
        image.tag("flood/" + name, str(k))
        client.images.remove(f"flood/{name}:{k}")
    client.close()


@contextmanager
def held(log: Path) -> Iterator[None]:
    """Another process reads the log and does not let go."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(log)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("\n")


@contextmanager
def frozen(disk: LoopDisk) -> Iterator[None]:
    """Whoever writes to the disk stands still until it thaws."""
    subprocess.run(["fsfreeze", "--freeze", disk.path], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk.path], check=True)


@contextmanager
def full(disk: LoopDisk) -> Iterator[None]:
    """There is no block left."""
    disk.fill_to(0)
    yield
    disk.unfill()


@pytest.mark.long
def test_a_flood_is_recorded_whole_whatever_the_log_is_going_through(docker20: Engine, registry: Registry) -> None:
    disk = LoopDisk(docker20.folder / "log-disk", 128 * 2**20)
    host = Host(docker20, disk.path / "events.duckdb")
    image = registry.push_image("flood", "1", [base_layer()])
    client = docker20.client()
    client.images.pull(image.reference)
    client.close()
    said = docker20.folder / "collector.eventlog.log"
    with host.collecting():
        host.wait_for_events("image_observed", 1)
        for number, trouble in enumerate((held(host.log_path), frozen(disk), full(disk))):
            with trouble:
                threads = [
                    threading.Thread(target=flood, args=(docker20, image.reference, name, EVENTS // 12))
                    for name in ("a", "b")
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                # The collector finds out when it next appends.
                if number == 2:
                    host.wait_for(lambda: FULL in said.read_text(), "the collector to find the disk full")
        host.wait_for(lambda: host.count("image_untagged") >= EVENTS // 2, "the end of the flood")
    assert host.count("image_tagged") == EVENTS // 2
    assert host.count("image_untagged") == EVENTS // 2
    assert host.count("gap") == 0
    assert host.references() == {image.reference}
    present = host.json("collector", "images")
    assert [row["references"] for row in present] == [[image.reference]]
