"""What is read off names, labels and files: kinds of volumes, slots, job slots; and what events say of a use."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from collector.engine.client import DockerEngine
from collector.engine.protocol import Engine, RemovingEngine
from collector.eventlog.log import EventLog
from collector.model.errors import EngineError, UnansweredError, UsageError
from collector.model.events import Event, Kind
from collector.model.jobs import slot_of
from collector.model.observation import EngineInfo, ImageObservation, ListedContainer, ListedImage
from collector.model.origin import Origin
from pruner.planning.plan import plan
from pruner.policy.file import policy_from
from pruner.policy.policy import Policy, Space
from pruner.removal.executor import Executor
from pruner.removal.free_space import free_space
from pruner.state.containers import read_build_cache, read_container
from pruner.state.event_watch import names_of, raw_use
from pruner.state.inventory import Container, Image
from pruner.state.job_slots import free_slots, read_slots
from pruner.state.survey import look, survey, with_learning
from pruner.state.volumes import sort_of
from tests.fake_engine import FakeEngine

HEX = "0123456789abcdef" * 4
SLOT = "runner-abcdefgh-project-7-concurrent-0"
CACHE = f"{SLOT}-cache-3c3f060a0374fc8bc39395164f415a70"
PREFIX = "com.gitlab.gitlab-runner."


@pytest.mark.parametrize(
    ("name", "labels", "sort"),
    [
        (HEX, {}, "anonymous"),
        ("data", {"com.docker.volume.anonymous": ""}, "anonymous"),
        (HEX[:-1], {}, "named"),
        (CACHE, {}, "cache"),
        (f"{CACHE}-protected", {}, "cache"),
        ("whatever", {f"{PREFIX}type": "cache"}, "cache"),
        ("buildx_buildkit_builder0_state", {}, "builder"),
        ("runner-cache", {}, "named"),
        (f"my-{CACHE}", {}, "named"),
    ],
)
def test_kinds_of_volumes(name: str, labels: dict[str, str], sort: str) -> None:
    assert sort_of(name, labels) == sort


def test_a_cache_volume_and_the_containers_of_its_slot_are_of_one_name() -> None:
    assert slot_of(CACHE) == slot_of(f"{SLOT}-43c0a4fd000bc229-build-2") == SLOT
    assert slot_of("data") is None


def container(job: str | None, state: str) -> ListedContainer:
    labels = {f"{PREFIX}job.id": job} if job else {}
    return ListedContainer(f"{job}-{state}", "image", "name", state, 0, labels)


def test_free_slots_are_those_without_a_running_job(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('concurrent = 4\n[[runners]]\nname = "one"\n')
    policy = policy_from({"threshold": "2GB/job", "runner_config": str(config)}, "test")
    listed = [container("1", "running"), container("1", "exited"), container("2", "exited"), container(None, "running")]
    assert free_slots(policy, listed) == 3
    assert free_slots(policy_from({"job_slots": 1}, "test", policy), [*listed, container("3", "running")]) == 0
    assert free_slots(policy_from({"threshold": "10%"}, "test"), listed) is None


@pytest.mark.parametrize("text", ["concurrent = 'many'", "concurrent = 0", "concurrent = true", "concurrent"])
def test_a_runner_config_that_says_no_slots_is_named(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    with pytest.raises(UsageError, match="set job_slots, or make runner_config"):
        read_slots(config)


def test_a_runner_config_without_a_number_means_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("check_interval = 0\n")
    assert read_slots(tmp_path / "config.toml") == 1
    with pytest.raises(UsageError, match="No such file"):
        read_slots(tmp_path / "none.toml")


def test_a_container_that_never_started_counts_from_its_creation() -> None:
    known = Container("id", "name", "image", "created", 0.0)
    detail: dict[str, Any] = {
        "Created": "2026-01-01T00:00:00.5Z",
        "State": {"Status": "created", "FinishedAt": "0001-01-01T00:00:00Z"},
        "HostConfig": {"RestartPolicy": {"Name": "no"}},
    }
    read = read_container(detail, known)
    assert (read.stopped_at, read.never_started, read.restarts) == (1767225600.5, True, False)
    detail["State"] = {"Status": "exited", "FinishedAt": "2026-01-02T00:00:00Z"}
    detail["HostConfig"] = {"RestartPolicy": {"Name": "unless-stopped"}}
    read = read_container(detail, known)
    assert (read.stopped_at, read.never_started, read.restarts) == (1767312000.0, False, True)


@pytest.mark.parametrize(("shown", "goes"), [("dead", True), ("removing", False)])
def test_a_container_whose_removal_failed_is_dead_whatever_the_listing_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, *, goes: bool
) -> None:
    engine = FakeEngine(tmp_path)
    container = engine.add_container(engine.add_image("a:1"), state="removing", age=1e6)
    detail = engine.container_detail(container)
    assert detail is not None
    state = {"Status": shown, "FinishedAt": "2026-01-01T00:00:00Z"}
    monkeypatch.setattr(engine, "container_detail", lambda _: {**detail, "State": state})
    found = survey(engine, None, Policy())
    (item,) = plan(Policy(threshold=Space.parse("100%")), found).items
    assert (found.containers[0].state, item.is_removed) == (shown, goes)


def test_a_container_of_which_the_engine_shows_nothing_readable_is_not_known_to_be_stopped() -> None:
    known = Container("id", "name", "image", "exited", 1767225600.0)
    for detail in ({}, {"State": 3}, {"Created": "x", "State": {"Status": ["exited"], "FinishedAt": 7}}):
        read = read_container(detail, known)
        assert (read.state, read.stopped_at) == ("unknown", 1767225600.0)


def test_build_cache_is_used_when_it_was_made_or_used_last() -> None:
    rows = [
        {"Size": 5, "CreatedAt": "2026-01-01T00:00:00Z", "LastUsedAt": None, "InUse": False, "Shared": True},
        {"Size": -1, "CreatedAt": "2026-01-01T00:00:00Z", "LastUsedAt": "2026-01-02T00:00:00Z", "InUse": True},
    ]
    first, second = read_build_cache({"BuildCache": rows}).records
    assert (first.bytes, first.last_use, first.shared, first.in_use) == (5, 1767225600.0, True, False)
    assert (second.bytes, second.last_use, second.shared, second.in_use) == (0, 1767312000.0, False, True)
    assert read_build_cache({"BuildCache": None}).bytes == 0


def event(kind: str, action: str, actor: str, **attributes: str) -> dict[str, Any]:
    return {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "timeNano": 5}


IMAGE = Image(
    image_id=f"sha256:{HEX}",
    references=("debian:latest", "registry.example.org/app:1"),
    digests=("debian@sha256:0a",),
    names=("debian:latest", "registry.example.org/app:1", "debian@sha256:0a", "app:old"),
    size=1,
    layers=(),
    created=0.0,
    first_seen=0.0,
    last_use=0.0,
    evidence="",
    pulled=0.0,
    uses=0,
    origin=Origin.REGISTRY,
)


@pytest.mark.parametrize(
    "raw",
    [
        event("image", "pull", "debian:latest", name="debian"),
        event("image", "pull", "", name="docker.io/library/debian:latest"),
        event("image", "pull", "debian@sha256:0a", name="debian"),
        event("image", "tag", f"sha256:{HEX}", name="new:1"),
        event("image", "load", HEX),
        event("container", "create", "c", image=f"sha256:{HEX}", name="x"),
        event("container", "create", "c", image=HEX[:12], name="x"),
        event("container", "start", "c", image="debian", name="x"),
        event("container", "remove", "c", image="registry.example.org/app:1", name="x"),
    ],
)
def test_events_that_show_a_use(raw: dict[str, Any]) -> None:
    use = raw_use(raw)
    assert use is not None
    assert not names_of(IMAGE).isdisjoint(use.called)


def test_events_that_show_none_or_of_another_image() -> None:
    assert raw_use(event("image", "untag", f"sha256:{HEX}")) is None
    assert raw_use(event("network", "create", "n")) is None
    assert raw_use(event("container", "commit", "c", image="registry.example.org/app:1", name="x")) is None
    other = raw_use(event("container", "create", "c", image="registry.example.org/app:2", name="y"))
    assert other is not None
    assert other.kind is Kind.CONTAINER_CREATED
    assert names_of(IMAGE).isdisjoint(other.called)


def test_free_space_is_reported_by_the_engine_alone(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer(body: bytes) -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)

        for body, known in ((f'{{"DockerRootDir": "{tmp_path}"}}', True), ("{}", False), ("garbage", False)):
            thread = threading.Thread(target=answer, args=(body.encode(),))
            thread.start()
            disks = free_space(f"unix://{path}")
            thread.join()
            assert bool(disks) is known
    assert free_space(f"unix://{tmp_path}/none.sock") == ()
    assert free_space("tcp://127.0.0.1:1") == ()


class Broken:
    """An engine of which some questions have no answer."""

    host = "unix:///none"
    hides_origin = False
    keeps_events = False

    def __init__(self, folder: Path, *broken: str) -> None:
        self._folder = folder
        self._broken = broken

    def __getattr__(self, question: str) -> Any:
        if question in self._broken:
            return self._fail
        return {
            "info": lambda: EngineInfo(str(self._folder), "overlay2", "1"),
            "containers": lambda: [
                ListedContainer("c", "sha256:a", "web", "exited", 10**9, {}),
                ListedContainer("d", "sha256:b", "db", "running", 10**9, {}),
            ],
            "container_detail": lambda _: {"State": {"Status": "exited", "FinishedAt": "2026-01-01T00:00:00Z"}},
            "images": lambda: [ListedImage(f"sha256:{one}", (f"{one}:1",), (), 7) for one in "ab"],
            "observe": lambda row: ImageObservation(row.image, row.references, (), None, None, 7, ()),
            "volumes": lambda: [{"Name": "v", "CreatedAt": "2026-01-01T00:00:00Z", "Driver": "local"}],
            "disk_usage": lambda: {"BuildCache": [{"Size": 5}]},
            "buffered_events": lambda *_: [],
            "external_containers": list,
        }[question]

    def _fail(self, *_: object) -> Any:
        raise UnansweredError("the engine answered: no")


@pytest.mark.parametrize(
    ("question", "warning", "left"),
    [
        ("disk_usage", "what containers, volumes and build cache hold is unknown", (2, "exited", 1, 0)),
        ("volumes", "volumes stay", (2, "exited", 0, 5)),
        ("container_detail", "container web stays", (2, "unknown", 1, 5)),
        ("observe", "image a stays", (0, "exited", 1, 5)),
    ],
)
def test_a_question_without_an_answer_is_a_warning(
    tmp_path: Path, question: str, warning: str, left: tuple[int, str, int, int]
) -> None:
    state = survey(cast("Engine", Broken(tmp_path, question)), None, Policy())
    assert f"{warning}: the engine answered: no" in [line.removesuffix(" (and 1 more)") for line in state.warnings]
    found = len(state.images), state.containers[0].state, len(state.volumes), state.build_cache.bytes
    assert found == left


def test_an_engine_that_hangs_up_over_one_question_only_is_not_lost(tmp_path: Path) -> None:
    """As one that panics over it does, each time."""
    engine = FakeEngine(tmp_path)
    engine.add_image("a:1")
    engine.fail("disk_usage", times=2)
    state = survey(engine, None, Policy())
    assert len(state.images) == 1
    assert any("build cache hold is unknown: no engine answers" in line for line in state.warnings)
    # The second `info` is what distinguishes the two.
    engine.fail("info", skip=1)
    with pytest.raises(EngineError, match="no engine answers"):
        survey(engine, None, Policy())


def test_a_dry_run_learns_of_each_image_what_the_run_itself_does(tmp_path: Path) -> None:
    engine = FakeEngine(tmp_path)
    image = engine.add_image("app:1")
    log = EventLog(tmp_path / "events.duckdb")
    day_ns = 86400 * 10**9
    used = [Event(time.time_ns() - day * day_ns, Kind.IMAGE_PULLED, image, "app:1") for day in (9, 3)]
    for number, event in enumerate(used[:1] * 3 + used[1:]):
        began = event.time_ns + number
        created = Event(began, Kind.CONTAINER_CREATED, image, "app:1", f"c{number}")
        log.append([event, created, replace(created, time_ns=began + 1, kind=Kind.CONTAINER_DESTROYED, began_ns=began)])
    policy = policy_from({"order": "forecast"}, "test")
    _, dry = look(engine, log, policy, learn=True)
    assert dry.images == with_learning(survey(engine, log, policy), log, policy).images
    assert dry.images[0].recent > 0


@pytest.mark.parametrize("question", ["info", "containers", "images", "buffered_events"])
def test_a_question_that_must_be_answered_ends_the_run(tmp_path: Path, question: str) -> None:
    with pytest.raises(UnansweredError):
        survey(cast("Engine", Broken(tmp_path, question)), None, Policy())
    with pytest.raises(EngineError, match="no engine socket"):
        survey(DockerEngine(f"unix://{tmp_path}/none"), None, Policy())


@pytest.mark.slow
@pytest.mark.parametrize("broken", [(), ("disk_usage",), ("images",), ("images", "disk_usage", "containers")])
def test_an_interrupted_prune_is_no_reason_to_stand_still(tmp_path: Path, broken: tuple[str, ...]) -> None:
    log = EventLog(tmp_path / "events.duckdb", host="h")
    planned = {
        "items": [
            {"item": "build_cache", "key": "build_cache", "name": "c", "reason": "expired", "frees": 5, "bytes": 9}
        ],
        "images": [{"image": "sha256:z", "reason": "evict", "references": ["z:1"], "frees": 7}],
    }
    log.append([Event(10**18, Kind.PRUNE_STARTED, attributes={"prune": "p", "plan": planned})])
    executor = Executor(cast("RemovingEngine", Broken(tmp_path, *broken)), log, "test")
    executor.finish_interrupted(("p",))
    rows = log.query("SELECT kind, attributes ->> '$.item' FROM event WHERE kind <> 'prune_started' ORDER BY seq")
    cache = "item_failed" if "disk_usage" in broken else "item_removed"
    output = [(cache, "build_cache"), ("item_removed", "image"), ("prune_finished", None)]
    assert rows == ([] if "images" in broken else output)
