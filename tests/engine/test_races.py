"""Jobs, pruners and kill -9 at any moment: nothing that a job needs goes, and nothing goes unrecorded."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import docker
import docker.errors
import pytest

from collector.machine.lock import exclusive
from collector.model.observation import ListedContainer
from collector.queries.check import check
from pruner.planning.plan import Plan
from pruner.policy import min_age
from pruner.policy.file import policy_from
from pruner.removal import executor
from pruner.removal import run as running
from pruner.removal.client import DockerRemovingEngine as Border
from pruner.removal.remover import Remover
from pruner.state import jobs_in_flight, pull_policies
from pruner.state.event_watch import EventWatch
from pruner.state.inventory import Image
from tests.engine.engines import Engine
from tests.engine.host import Host, locked
from tests.engine.proxy import Proxy
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import PREFIX, FakeRunner, pull
from tests.engine.traffic import IMAGES, JOBS, MIB, MIN_AGE_S, REMOVALS, THREADS, Removals, Traffic

pytestmark = pytest.mark.engine
# An engine does not answer and remove in one step. A use that it reports in between comes too late (docs/safety.md):
# with all processors busy that takes milliseconds to tens of them. Then it is one removal in some twenty to forty.
MOST_MET = 4


@pytest.fixture
def quick_turns() -> Iterator[None]:
    """Let threads take turns at once.

    The jobs share an interpreter with the pruner here. On a runner they do not, so that the pruner
    does not wait for them between its last question and the removal.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.long
@pytest.mark.usefixtures("quick_turns")
def test_no_job_misses_what_was_pulled_before_a_pruner_in_a_loop_asked(
    docker20: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As min_age is seconds here and not an hour, so is all else that is measured against it.
    for module in (jobs_in_flight, pull_policies):
        monkeypatch.setattr(module, "MARGIN_S", 0.5)
    for limit in ("LEAST_AGE", "GITLAB_AGE", "MOST_AGE"):
        monkeypatch.setattr(min_age, limit, MIN_AGE_S)
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    helper = registry.push_image("gitlab/helper", "1", [base_layer()])
    images = [
        registry.push_image(f"race/{k}", "1", [base_layer(), random_layer(600 + k, 4 * MIB)]) for k in range(IMAGES)
    ]
    client = docker20.client()
    client.images.pull(helper.reference)
    removals = Removals()
    removals.watch(monkeypatch)
    traffic = Traffic(docker20, images, helper.reference)
    # Room for about a third of the images.
    threshold = docker20.disk.free() - IMAGES // 3 * 4 * MIB
    policy = policy_from(
        {
            "threshold": f"{threshold}B",
            "min_age": "auto",
            # The helper is not part of the race.
            "allowlist": [helper.reference],
            "emergency": "never",
        },
        "test",
    )
    over = threading.Event()

    def prune() -> None:
        border = Border(docker20.host)
        while not over.is_set():
            outcome = running.run(border, host.log, policy, "test")
            traffic.removed.extend(removal.name for removal, _ in outcome.removed)
        border.close()

    with host.collecting():
        pruner = threading.Thread(target=prune)
        workers = [threading.Thread(target=traffic.work, args=(seed,)) for seed in range(THREADS)]
        for thread in (pruner, *workers):
            thread.start()
        for thread in workers:
            thread.join()
        over.set()
        pruner.join()
    assert traffic.faults == []
    # What was pulled before the pruner asked stays: whoever misses an image has met its very removal.
    for job, failed, error in traffic.lost:
        assert removals.met(job, failed), f"{job}, failed at {failed}: {error}; removals {removals.windows}"
    assert len(traffic.lost) <= MOST_MET, traffic.lost
    assert traffic.seen["jobs"] + traffic.seen["jobs lost"] == traffic.begun >= JOBS
    assert len(traffic.removed) >= REMOVALS
    met = "SELECT count(*) FROM event WHERE kind = 'item_removed' AND (attributes -> '$.concurrent_uses') IS NOT NULL"
    print(dict(traffic.seen), len(traffic.removed), f"met {host.log.query(met)[0][0]}")  # noqa: T201 - shown by pytest -rP
    assert host.log.query("SELECT count(*) FROM prunes WHERE finished IS NULL") == [(0,)]
    client.close()


class Meddler:
    """Does something of its own to some images, between the pruner's last question and the removal."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.doing: dict[str, Callable[[], object]] = {}
        ask = Remover._image_obstacle

        def asked(ours: Remover, image: Image, made: Plan, watch: EventWatch) -> str | None:
            obstacle = ask(ours, image, made, watch)
            if obstacle is None and image.image_id in self.doing:
                self.doing.pop(image.image_id)()
            return obstacle

        patch.setattr(Remover, "_image_obstacle", asked)


def test_what_comes_between_the_last_question_and_the_removal_is_refused_or_reported(
    any_engine: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    client = any_engine.client()
    meddler = Meddler(monkeypatch)
    # A second round would take what has come meanwhile, once it is old enough.
    monkeypatch.setattr(executor, "MAX_ROUNDS", 1)
    if any_engine.is_podman:
        # On a busy machine its events come later still.
        monkeypatch.setattr(Border, "lag", 3.0)

    def new(name: str, seed: int = 0) -> tuple[str, str]:
        layers = [base_layer(), random_layer(900 + len(name) + seed, 10000)]
        reference = registry.push_image(f"meddle/{name}", "1", layers).reference
        client.images.pull(reference)
        return reference, str(client.images.get(reference).id)

    def bear(name: str) -> set[str]:
        """Which of our names an image bears; none if it is gone."""
        try:
            return {tag.removeprefix("docker.io/") for tag in client.images.get(name).tags}
        except docker.errors.ImageNotFound:
            return set()

    moving, moved = new("moving-name")
    named, second_name = new("name"), "meddle/second:1"
    used, other_name = new("container"), "meddle/other:1"
    pulled, met = new("pulled-again")
    client.images.get(used[0]).tag(*other_name.split(":"))
    meddler.doing = {
        moved: lambda: new("moving-name", 50),
        named[1]: lambda: client.images.get(named[1]).tag(*second_name.split(":")),
        used[1]: lambda: client.containers.create(used[1], ["true"], network_mode="none"),
        met: lambda: pull(client, pulled),
    }
    time.sleep(1.1)
    border = Border(any_engine.host)
    outcome = running.run(border, host.log, policy_from({"threshold": "100%", "min_age": "1s"}, "test"), "test")
    border.close()
    assert not meddler.doing
    # The name means another image now, which stays; the one that it meant has gone.
    assert bear(moving) == {moving}
    assert bear(moved) == set()
    # Another name, and a container: the engine refuses, and what names were taken are given back.
    assert bear(named[1]) == {named[0], second_name}
    assert bear(used[1]) == {used[0], other_name}
    why = {removal.key: reason for removal, reason in outcome.failed}
    assert why[named[1]] == "it was given another reference meanwhile"
    assert "used by" in why[used[1]] or "container" in why[used[1]]
    # Nothing refuses here; who looks finds out.
    assert bear(met) == set()
    removed = {row["image_id"]: row for row in host.json("pruner", "history")["removals"]}
    assert [use["what"] for use in removed[met]["concurrent_uses"]] == ["pulled"]
    assert "1 of them while somebody used the image" in host.run("pruner", "history")
    client.close()


def test_a_job_that_begins_while_the_pruner_looks_holds_its_image(
    docker20: Engine, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first container, of another image, comes between the listing and the last question."""
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    helper = registry.push_image("begins/helper", "1", [base_layer()])
    image = registry.push_image("begins/image", "1", [base_layer(), random_layer(950, 10000)])
    runner = FakeRunner(docker20, helper.reference)
    with host.collecting():
        runner.run_job(image.reference, project_id=3)
        host.wait_for_events("container_destroyed", 2)
    client = docker20.client()

    labels = {f"{PREFIX}job.id": "77", f"{PREFIX}project.id": "3", f"{PREFIX}type": "predefined"}
    ask, listings = Border.containers, Counter[str]()

    def listing(border: Border) -> list[ListedContainer]:
        found = ask(border)
        listings["made"] += 1
        # The first is the survey's: then there is no job yet.
        if listings["made"] == 2:
            client.containers.run(helper.reference, ["sleep", "60"], labels=labels, network_mode="none", detach=True)
        return found

    monkeypatch.setattr(Border, "containers", listing)
    time.sleep(1.1)
    border = Border(docker20.host)
    outcome = running.run(border, host.log, policy_from({"threshold": "100%", "min_age": "1s"}, "test"), "test")
    border.close()
    reasons = {removal.name: reason for removal, reason in outcome.failed}
    why = reasons[image.reference]
    assert why.startswith("a job that has begun since may need it: job 77, in flight for ")
    assert why.endswith(": jobs of its project used it lately")
    assert image.reference in host.references()
    for container in client.containers.list():
        container.remove(force=True)
    client.close()


def test_a_second_pruner_leaves_with_a_clear_message(docker20: Engine) -> None:
    host = Host(docker20, docker20.folder / "log" / "events.duckdb")
    with exclusive(host.log_path, "pruner"):
        shown = host.run("pruner", "run", "--threshold", "100%", status=4)
    assert "another pruner (process" in shown
    assert len(shown.splitlines()) == 1
    host.run("pruner", "run", "--threshold", "1B")


def inventory(client: docker.DockerClient) -> set[str]:
    """All that a pruner may remove: image IDs, container IDs, volumes."""
    api = client.api
    return {
        *(str(row["Id"]) for row in api.images()),
        *(str(row["Id"]) for row in api.containers(all=True)),
        *(str(row["Name"]) for row in api.volumes()["Volumes"] or []),
    }


def output(host: Host, kind: str) -> set[str]:
    rows = host.log.query("SELECT coalesce(image_id, container, reference) FROM events WHERE kind = ?", [kind])
    return {str(row[0]) for row in rows}


def kill_before_it_tells(
    process: subprocess.Popen[bytes], host: Host, client: docker.DockerClient, before: set[str]
) -> None:
    """Kill a pruner when something has gone that its log does not know of."""
    with locked(host.log_path) as file:
        copy = Host(host.engine, host.log_path.with_name("copy.duckdb"))
        copy.log_path.write_bytes(file.read())
        known = output(copy, "item_removed")
        host.wait_for(lambda: before - inventory(client) > known, "something unrecorded")
        process.kill()
        process.wait()


def test_killed_at_any_moment_the_pruner_leaves_no_removal_unreported(docker20: Engine, registry: Registry) -> None:
    proxy = Proxy(docker20.socket, docker20.folder / "proxy.sock")
    host = Host(docker20, docker20.folder / "log" / "events.duckdb", proxy.host)
    client = docker20.client()
    for k in range(12):
        pushed = registry.push_image(f"kill/{k}", "1", [base_layer(), random_layer(700 + k, MIB)])
        image = client.images.pull(pushed.reference)
        if k % 3 == 0:
            image.tag("kill/other", str(k))
        if k % 4 == 0:
            client.containers.create(image, ["/bin/true"], network_mode="none", volumes=["/data"])
    for _ in range(3):
        made = client.containers.create(image, ["/bin/true"], network_mode="none", volumes=["/data"])
        made.start()
        made.wait()
        made.remove(v=False)
    before = inventory(client)
    time.sleep(2.1)
    options = (
        *("--threshold", "100%", "--min-age", "1s", "--containers-grace", "1s"),
        *("--volumes-anonymous-age", "1s", "--dangling-age", "1s"),
    )
    kills = 0
    # So that this test sees in time how far it is, also on a busy machine.
    proxy.before_removal_s = 0.2
    with proxy:
        while len(left := inventory(client)) > 1 and kills < 12:
            process = subprocess.Popen(
                host.command("pruner", "run", *options),
                env=host.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and len(inventory(client)) > len(left) - 4:
                time.sleep(0.01)
            if kills == 0:
                kill_before_it_tells(process, host, client, before)
            process.kill()
            kills += process.wait() == -9
            host.wait_for(lambda: proxy.idle, "the engine to end what it was asked")
            # The next run, with nothing to do, records the end of the story.
            host.run("pruner", "run", "--threshold", "1B")
            now = inventory(client)
            assert output(host, "item_removed") == before - now
            assert host.log.query("SELECT count(*) FROM prunes WHERE finished IS NULL") == [(0,)]
            if process.returncode != -9:
                break
    assert kills >= 4
    assert check(host.log) == []
    # Some went in the very moment of the kill, which only the next run could record.
    inferred = "SELECT count(*) FROM events WHERE kind = 'item_removed' AND attributes ->> '$.inferred' = 'true'"
    assert host.log.query(inferred)[0][0] >= 1
    assert host.log.query("SELECT count(*) FROM prunes WHERE outcome = 'interrupted'")[0][0] == kills
    client.close()
