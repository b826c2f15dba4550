"""Nothing is lost under a flood of events, also while the log cannot be written."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Registry, base_layer

pytestmark = pytest.mark.engine
EVENTS = 6000
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


def test_a_flood_is_recorded_whole_while_a_reader_holds_the_log(docker20: Engine, registry: Registry) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    image = registry.push_image("flood", "1", [base_layer()])
    client = docker20.client()
    client.images.pull(image.reference)
    client.close()
    with host.collecting():
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(host.log_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            threads = [
                threading.Thread(target=flood, args=(docker20, image.reference, name, EVENTS // 4))
                for name in ("a", "b")
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            holder.communicate("\n")
        host.wait_for(lambda: host.count("image_untagged") >= EVENTS // 2, "the end of the flood")
    assert host.count("image_tagged") == EVENTS // 2
    assert host.count("image_untagged") == EVENTS // 2
    assert host.count("gap") == 0
    assert host.references() == {image.reference}
    present = host.json("collector", "images")
    assert [row["references"] for row in present] == [[image.reference]]
