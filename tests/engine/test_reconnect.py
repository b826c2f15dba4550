"""Whatever comes between collector and engine: what the engine remembers is taken up once, the rest is a gap."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from collector.engine.client import DockerEngine as Border
from tests.engine.engines import Engine
from tests.engine.host import END_S, Host
from tests.engine.proxy import Proxy
from tests.engine.registry import PushedImage, Registry, base_layer, random_layer
from tests.engine.test_flood import flood

pytestmark = pytest.mark.engine
# Two events each: more than the 256 that Docker remembers.
PAIRS = 150


@pytest.fixture
def images(any_engine: Engine, registry: Registry) -> list[PushedImage]:
    """Two images; the engine has the first."""
    made = [registry.push_image(f"reconnect/{k}", "1", [base_layer(), random_layer(k, 2**20)]) for k in range(2)]
    client = any_engine.client()
    client.images.pull(made[0].reference)
    client.close()
    return made


@pytest.fixture
def proxy(any_engine: Engine) -> Iterator[Proxy]:
    with Proxy(any_engine.socket, any_engine.folder / "proxy.sock") as made:
        yield made


@pytest.fixture
def host(any_engine: Engine, proxy: Proxy) -> Host:
    return Host(any_engine, any_engine.folder / "log" / "events.duckdb", proxy.host)


def keeps_events(engine: Engine) -> bool:
    """Whether this engine's events outlive what Docker remembers: asked of it."""
    border = Border(engine.host)
    try:
        return border.keeps_events
    finally:
        border.close()


def gaps(host: Host) -> list[tuple[float, float, str]]:
    """Beginning, end (UTC seconds) and reason of each gap."""
    return [
        (began, ended, reason)
        for began, ended, reason in host.log.query(
            "SELECT epoch_ns(began) / 1e9, epoch_ns(ended) / 1e9, reason FROM gaps ORDER BY began"
        )
    ]


def tagged(host: Host, name: str) -> list[int]:
    """The numbers of the tags that a flood of this name gave, in the log's order."""
    rows = host.query(
        "SELECT reference FROM event WHERE kind = 'image_tagged' AND reference LIKE ? ORDER BY seq", f"%/{name}:%"
    )
    return [int(row[0].rpartition(":")[2]) for row in rows]


def wait_for_tags(host: Host, name: str, count: int) -> None:
    host.wait_for(lambda: len(tagged(host, name)) >= count, f"{count} tags of {name}")


def test_a_lost_socket_and_a_killed_collector_lose_nothing_that_the_engine_remembers(
    any_engine: Engine, images: list[PushedImage], host: Host, proxy: Proxy
) -> None:
    reference = images[0].reference
    collector = host.start_collector()
    flood(any_engine, reference, "before", 10)
    wait_for_tags(host, "before", 10)
    proxy.cut()
    flood(any_engine, reference, "cut", 20)
    proxy.restore()
    wait_for_tags(host, "cut", 20)

    # Killed between an event and its way to the disk, too.
    flood(any_engine, reference, "killed", 10)
    collector.kill()
    collector.wait()
    flood(any_engine, reference, "dead", 20)
    collector = host.start_collector()
    wait_for_tags(host, "dead", 20)
    assert [tagged(host, name) for name in ("before", "cut", "killed", "dead")] == [
        [*range(10)],
        [*range(20)],
        [*range(10)],
        [*range(20)],
    ]
    host.wait_for_events("image_untagged", 60)
    assert host.count("image_untagged") == 60
    assert gaps(host) == []

    # More than Docker remembers: what it forgot is a gap with its bounds, all else is there once.
    collector.kill()
    collector.wait()
    killed = time.time()
    flood(any_engine, reference, "many", PAIRS)
    collector = host.start_collector()
    host.wait_for(lambda: tagged(host, "many")[-1:] == [PAIRS - 1], "the last event")
    found = tagged(host, "many")
    assert found == [*range(PAIRS - len(found), PAIRS)]
    if keeps_events(any_engine):
        assert len(found) == PAIRS
        assert gaps(host) == []
    else:
        ((began, ended, reason),) = gaps(host)
        assert began <= killed
        assert "no longer has the events" in reason
        ((first,),) = host.log.query(
            "SELECT min(epoch_ns(time)) / 1e9 FROM event WHERE kind IN ('image_tagged', 'image_untagged')"
            " AND epoch_ns(time) / 1e9 > ?",
            [killed],
        )
        assert ended == pytest.approx(first, abs=1e-5)
        assert len(found) < PAIRS
    host.wait_for(lambda: host.json("collector", "images")[0]["references"] == [reference], "the last tag to go")
    collector.send_signal(signal.SIGTERM)
    assert collector.wait(timeout=END_S) == 0


def test_after_a_restart_of_the_engine_what_happened_unseen_is_known(
    any_engine: Engine, images: list[PushedImage], host: Host, proxy: Proxy
) -> None:
    gone, came = images
    with host.collecting():
        host.wait_for_events("image_observed", 1)
        flood(any_engine, gone.reference, "before", 10)
        wait_for_tags(host, "before", 10)
        ((before,),) = host.log.query("SELECT max(seq) FROM event")
        said = any_engine.folder / "collector.eventlog.log"
        tries = said.read_text().count("trying again")
        ((read,),) = host.log.query("SELECT max(epoch_ns(time)) / 1e9 FROM event WHERE kind = 'image_untagged'")
        proxy.cut()
        host.wait_for(lambda: said.read_text().count("trying again") > tries, "the loss to be noticed")
        noticed = time.time()
        client = any_engine.client()
        client.images.remove(gone.reference)
        client.images.pull(came.reference)
        image = str(client.images.get(came.reference).id)
        container = str(client.containers.create(came.reference, ["true"], network_mode="none").id)
        client.close()
        any_engine.restart()
        proxy.restore()
        flood(any_engine, came.reference, "after", 10)
        wait_for_tags(host, "after", 10)
        host.wait_for(lambda: container in created(host), "the container")
        host.wait_for(lambda: [row["image_id"] for row in host.json("collector", "images")] == [image], "the image")
    assert tagged(host, "before") == tagged(host, "after") == [*range(10)]
    assert created(host)[container] == image
    how = dict(
        host.log.query(
            "SELECT kind, max(coalesce(attributes ->> '$.inferred', 'event')) FROM event WHERE seq > ?"
            " AND kind IN ('image_deleted', 'container_created') GROUP BY kind",
            [before],
        )
    )
    if keeps_events(any_engine):
        assert gaps(host) == []
        assert how == {"image_deleted": "event", "container_created": "event"}
        return
    ((began, ended, _),) = gaps(host)
    # What was surely read is the last event before, or what the engine was asked since.
    assert read <= began < noticed
    assert began < ended <= time.time()
    assert how == {"image_deleted": "true", "container_created": "true"}


def test_a_collector_that_stood_still_says_what_it_missed(any_engine: Engine, images: list[PushedImage]) -> None:
    reference = images[0].reference
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    with host.collecting() as collector:
        host.wait_for_events("image_observed", 1)
        # Short of what the engine queues, nothing is lost.
        with stopped(collector, 0.5):
            flood(any_engine, reference, "short", 100)
        wait_for_tags(host, "short", 100)
        assert gaps(host) == []
        with stopped(collector, 2.1):
            if keeps_events(any_engine):
                given = tag(any_engine, reference, "long", range(520))
            else:
                # The engine waits 100 ms for a full queue before it drops an event: many at a time take less.
                with ThreadPoolExecutor(32) as pool:
                    parts = pool.map(lambda k: tag(any_engine, reference, "long", range(k, 832, 32)), range(32))
                    given = dict(item for part in parts for item in part.items())
            tag(any_engine, reference, "last", range(1))
        host.wait_for(lambda: tagged(host, "last") == [0], "what the engine still remembers")
        resumed = time.time()
    assert tagged(host, "short") == [*range(100)]
    found = tagged(host, "long")
    assert len(found) == len(set(found))
    lost = given.keys() - set(found)
    if keeps_events(any_engine):
        assert not lost
        assert gaps(host) == []
        return
    # Some is lost, and all that is lies within the gap.
    assert lost
    ((began, ended, reason),) = gaps(host)
    assert "stood still" in reason
    assert ended < resumed
    assert [number for number in lost if not (began <= given[number][1] and given[number][0] <= ended)] == []


@contextmanager
def stopped(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """A process that stands still, as on a machine that is suspended, until so many seconds after the body."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGCONT)


def tag(engine: Engine, reference: str, name: str, numbers: Iterable[int]) -> dict[int, tuple[float, float]]:
    """Give and take tags; between which times (UTC seconds) each was given."""
    client = engine.client()
    given = {}
    for number in numbers:
        began = time.time()
        client.api.tag(reference, f"flood/{name}", str(number))
        given[number] = (began, time.time())
        client.api.remove_image(f"flood/{name}:{number}")
    client.close()
    return given


def created(host: Host) -> dict[str, str]:
    """The image of each container, by its ID."""
    return dict(host.query("SELECT container, image_id FROM events WHERE kind = 'container_created'"))
