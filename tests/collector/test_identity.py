"""Whose history a log is: machines, engines and names as they come and go."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collector.eventlog import identity
from collector.eventlog.identity import Identity
from collector.eventlog.log import EventLog
from collector.model import own_container
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.queries.images import images
from collector.queries.status import status

HERE = Identity("runner", "m1", None, "E1", "/var/lib/docker")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this host another: its name, its machine."""

    def become(name: str, machine: str | None = "m1", hardware: str | None = None) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        monkeypatch.setattr(identity, "_machine_ids", lambda: (machine, hardware))

    become("runner")
    return become


@pytest.fixture
def log(tmp_path: Path, host: Any) -> EventLog:
    host("runner")
    made = EventLog(tmp_path / "events.duckdb")
    made.append([observed(1), Event(2, Kind.CONTAINER_CREATED, image="sha256:a", container="c")])
    return made


def observed(time_ns: int) -> Event:
    attributes = {"references": ["a:1"], "digests": [], "size": 1, "layers": []}
    return Event(time_ns, Kind.IMAGE_OBSERVED, image="sha256:a", attributes=attributes)


@pytest.mark.slow
def test_a_renamed_host_keeps_its_history_and_the_change_is_an_event(log: EventLog, host: Any) -> None:
    assert log.claim(HERE) == []
    host("renamed")
    found = EventLog(log.path)
    events = found.claim(replace(HERE, name="renamed"))
    found.append([*events, Event(3, Kind.CONTAINER_DIED, image="sha256:a", container="c")])
    assert [event.attributes["changes"] for event in events] == [{"name": {"from": "runner", "to": "renamed"}}]
    assert found.claim(replace(HERE, name="renamed")) == []
    assert [row[0] for row in found.query("SELECT DISTINCT host FROM event")] == [found.host] == ["runner"]
    assert [row.uses for row in images(EventLog(log.path))] == [1]
    assert status(EventLog(log.path)).host == "renamed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("here", "why"),
    [
        (Identity("runner", "m2", None, "E2", "/var/lib/docker"), "another machine"),
        (Identity("runner", "m2", None, "E1", "/var/lib/docker"), "a clone"),
        (Identity("runner", "m1", None, "E2", "/data/docker"), "another engine"),
        (Identity("runner", None, None, "E2", "/var/lib/docker"), "another engine"),
        (Identity("runner", "m2", None, None, "/var/lib/containers"), "another machine"),
        (Identity("runner", "m1", None, None, "/var/lib/containers/storage"), "another engine"),  # Podman, after Docker
    ],
)
def test_a_log_of_another_host_is_asked_about(log: EventLog, here: Identity, why: str) -> None:
    log.claim(HERE)
    with pytest.raises(LogError, match=f"is that of host 'runner', and .*{why}.*`collector adopt`.*move it away"):
        log.claim(here)


@pytest.mark.parametrize(
    "here",
    [
        Identity("other", None, None, "E1", "/data/docker"),  # a collector in a container, a moved data root
        Identity("runner", "m1", "h1", "E2", "/var/lib/docker"),  # the data root was emptied
        Identity("other", "m1", None, None, None),  # Podman
    ],
)
def test_what_is_surely_the_same_host_goes_on(log: EventLog, here: Identity) -> None:
    log.claim(HERE)
    log.claim(here)
    assert EventLog(log.path).host == "runner"


@pytest.mark.slow
def test_engines_without_an_id_are_kept_apart_by_where_they_keep_what_they_hold(log: EventLog) -> None:
    podman = replace(HERE, engine=None, data_root="/home/ci/.local/share/containers/storage")
    log.claim(podman)
    for other in (HERE, replace(podman, data_root="/var/lib/containers/storage")):
        with pytest.raises(LogError, match=r"another engine \(data root /home/ci/.*, not /var/lib/"):
            log.claim(other)
    log.adopt(HERE)
    log.adopt(podman)
    assert log.claim(podman) == []
    with pytest.raises(LogError, match="another engine"):
        log.claim(HERE)


def test_a_log_of_another_machine_is_not_written_to_before_it_is_adopted(log: EventLog, host: Any) -> None:
    host("laptop", "m2")
    elsewhere = EventLog(log.path)
    assert [row.image_id for row in images(elsewhere)] == ["sha256:a"]
    with pytest.raises(LogError, match="move it away"):
        elsewhere.append([Event(9, Kind.GAP, began_ns=3)])
    before, after = elsewhere.adopt(replace(HERE, name="laptop", machine="m2"))
    assert (before.key, before.identity.name, after.identity.name) == ("runner", "runner", "laptop")
    assert before.id != after.id
    elsewhere.append([Event(9, Kind.GAP, began_ns=3)])
    assert elsewhere.query("SELECT DISTINCT host FROM event") == [("runner",)]
    host("runner", "m1")
    with pytest.raises(LogError, match="is that of host 'laptop'"):
        EventLog(log.path).append([Event(10, Kind.GAP, began_ns=3)])


def test_a_log_that_says_only_a_name_is_taken_up_under_that_name(tmp_path: Path, host: Any) -> None:
    path = tmp_path / "events.duckdb"
    EventLog(path, host="runner").append([observed(1)])
    assert EventLog(path).claim(HERE) == []
    host("renamed")
    EventLog(path).claim(replace(HERE, name="renamed"))
    other = tmp_path / "other.duckdb"
    EventLog(other, host="gone").append([observed(1)])
    with pytest.raises(LogError, match=r"only its name says.*called 'renamed'"):
        EventLog(other).claim(replace(HERE, name="renamed"))


def test_the_file_that_takes_the_place_of_a_log_is_looked_at_again(log: EventLog, host: Any, tmp_path: Path) -> None:
    assert log.host == "runner"
    host("other", "m2")
    stranger = EventLog(tmp_path / "stranger.duckdb")
    stranger.append([observed(1)])
    host("runner", "m1")
    shutil.copy(stranger.path, log.path)
    log.forget_host()
    with pytest.raises(LogError, match="is that of host 'other'"):
        log.append([Event(9, Kind.GAP, began_ns=3)])


@pytest.mark.parametrize("placeholder", ["", "uninitialized", "Not Settable", "03000200-0400-0500-0006-000700080009"])
def test_what_stands_in_place_of_an_id_makes_no_two_machines_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placeholder: str
) -> None:
    found = []
    for name in ("first", "second"):
        for what, text in (
            ("_MACHINE_ID", "0123" * 8 if name == "first" else "4567" * 8),
            ("_HARDWARE_ID", placeholder),
        ):
            (tmp_path / what).write_text(f"{text}\n")
            monkeypatch.setattr(identity, what, tmp_path / what)
        monkeypatch.setattr(own_container, "_SIGNS", ())
        identity._machine_ids.cache_clear()
        found.append(identity.this_machine())
    identity._machine_ids.cache_clear()
    assert [one.hardware for one in found] == [None, None]
    assert found[0].is_same_machine(found[1]) is False
