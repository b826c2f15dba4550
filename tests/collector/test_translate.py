"""From recorded streams of real engines to events: identity, intervals, jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from collector.engine.translate import Translator
from collector.model.events import Event, Kind
from collector.model.observation import CreatedFrom, ListedContainer, chain_id, pair_layers

CAPTURES = Path(__file__).parents[1] / "data" / "gitlab-runner"
ID_1 = "sha256:" + "1" * 64
ID_2 = "sha256:" + "2" * 64
CONTAINER = "c" * 64


class Names:
    """An engine of which only names are asked."""

    def __init__(self, names: dict[str, str] | None = None, containers: dict[str, str] | None = None) -> None:
        self.names = names or {}
        self.containers = containers or {}
        self.volumes: dict[str, tuple[str, ...]] = {}

    def resolve(self, reference: str) -> str | None:
        return self.names.get(reference)

    def created_from(self, container: str) -> CreatedFrom:
        return CreatedFrom(self.containers.get(container), self.volumes.get(container, ()))


def raw(kind: str, action: str, actor: str, time_ns: int = 1, **attributes: str) -> dict[str, Any]:
    return {"Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "timeNano": time_ns}


def capture(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CAPTURES / name / "events.jsonl").read_text().splitlines()]


def test_every_job_of_a_capture_is_attributed_by_id_and_not_by_name() -> None:
    translator = Translator(Names())
    events = [event for line in capture("a") for event in translator.translate(line)]
    created = [event for event in events if event.kind is Kind.CONTAINER_CREATED]
    label = "com.gitlab.gitlab-runner."
    starts = {
        (event.attributes["labels"][label + "job.id"], event.attributes["labels"][label + "type"], event.image)
        for event in created
        if event.attributes["labels"].get(label + "type") in {"build", "service"}
    }
    assert len(created) == 17
    assert {job for job, _, _ in starts} == {"1001", "1002", "1003"}
    assert all(image is not None and image.startswith("sha256:") for _, _, image in starts)
    # Created by ID: no reference that was ever pulled appears in a container event.
    pulled = {event.reference for event in events if event.kind is Kind.IMAGE_PULLED}
    assert not pulled & {event.reference for event in created}
    destroyed = [event for event in events if event.kind is Kind.CONTAINER_DESTROYED]
    assert len(destroyed) == 17
    assert all(event.began_ns is not None and event.began_ns < event.time_ns for event in destroyed)
    assert not translator.open


def test_a_replayed_stream_adds_nothing() -> None:
    translator = Translator(Names())
    lines = capture("a")
    first = [event for line in lines for event in translator.translate(line)]
    assert first
    assert not [event for line in lines for event in translator.translate(line)]


def test_a_name_means_what_it_meant_then() -> None:
    names = Names({"a:1": ID_1})
    translator = Translator(names)
    assert translator.translate(raw("image", "pull", "a:1", 1, name="a"))[0].image == ID_1
    names.names = {"a:1": ID_2}
    assert translator.translate(raw("image", "pull", "a:1", 2, name="a"))[0].image == ID_2
    # The engine no longer knows the name: what it last meant stands.
    names.names = {}
    assert translator.translate(raw("container", "create", CONTAINER, 3, image="a:1"))[0].image == ID_2


def test_a_container_says_its_image_itself_even_when_the_tag_has_moved() -> None:
    translator = Translator(Names({"a:1": ID_2}, {CONTAINER: ID_1}))
    event = translator.translate(raw("container", "create", CONTAINER, 3, image="a:1", name="x", team="mesa"))[0]
    assert (event.image, event.reference) == (ID_1, "a:1")
    assert event.attributes == {"labels": {"team": "mesa"}, "name": "x"}


def test_podman_says_the_same_in_other_words() -> None:
    translator = Translator(Names())
    pulled = translator.translate(raw("image", "pull", "1" * 64, 1, name="docker.io/library/debian:12"))[0]
    assert (pulled.kind, pulled.image, pulled.reference) == (Kind.IMAGE_PULLED, ID_1, "docker.io/library/debian:12")
    translator.translate(raw("container", "create", CONTAINER, 2, image="docker.io/library/debian:12"))
    gone = translator.translate(raw("container", "remove", CONTAINER, 9, image="docker.io/library/debian:12"))[0]
    assert (gone.kind, gone.image, gone.began_ns) == (Kind.CONTAINER_DESTROYED, ID_1, 2)


def test_an_image_that_podman_deletes_name_by_name_is_deleted_with_the_last() -> None:
    translator = Translator(Names())
    translator.learn({"docker.io/library/a:1": ID_1, "docker.io/library/a@" + ID_2: ID_1, "docker.io/proj/b:2": ID_2})
    raws = [raw("image", "tag", ID_1, 1, name="docker.io/proj/c:3")]
    for name in ("a:1", "docker.io/proj/c:3"):
        raws += [raw("image", verb, ID_1, 2 + len(raws), name=name) for verb in ("untag", "delete")]
    kinds = [event.kind for line in raws for event in translator.translate(line)]
    assert kinds == [Kind.IMAGE_TAGGED, Kind.IMAGE_UNTAGGED, Kind.IMAGE_UNTAGGED, Kind.IMAGE_DELETED]
    # Pulled again under one name, it is deleted with that.
    translator.translate(raw("image", "pull", ID_1, 20, name="docker.io/library/a:1"))
    (deleted,) = translator.translate(raw("image", "remove", ID_1, 21, name="docker.io/library/a:1"))
    assert deleted.kind is Kind.IMAGE_DELETED


def test_untag_names_the_image_where_the_engine_does_not_name_it() -> None:
    event = Translator(Names()).translate(raw("image", "untag", ID_1, 1, name=ID_1))[0]
    assert (event.image, event.reference) == (ID_1, None)


def test_what_does_not_concern_us_is_no_event() -> None:
    translator = Translator(Names())
    assert translator.translate(raw("network", "create", "n")) == []
    assert translator.translate(raw("container", "exec_create: sh", CONTAINER, image="a")) == []
    assert translator.translate({"Type": "image", "Action": "prune", "Actor": {}}) == []


def listed(container: str, image: str = ID_1, created_ns: int = 5) -> ListedContainer:
    return ListedContainer(container, image, "name", "running", created_ns, {"a": "b"})


def test_a_listing_shows_what_events_missed() -> None:
    translator = Translator(Names())
    appeared = translator.reconcile([listed(CONTAINER)], 10)
    assert [(event.kind, event.time_ns, event.image) for event in appeared] == [(Kind.CONTAINER_CREATED, 5, ID_1)]
    assert appeared[0].attributes["inferred"] is True
    assert translator.reconcile([listed(CONTAINER)], 20) == []
    # The event that comes late is the same creation.
    assert translator.translate(raw("container", "create", CONTAINER, 6, image=ID_1)) == []
    vanished = translator.reconcile([], 30)
    assert [(event.kind, event.began_ns, event.time_ns) for event in vanished] == [(Kind.CONTAINER_DESTROYED, 5, 30)]
    # What comes late is recorded, but closes it no second time, and opens it no more.
    late = [
        event
        for action in ("create", "start", "die", "destroy")
        for event in translator.translate(raw("container", action, CONTAINER, 29, image="a:1"))
    ]
    assert [(event.kind, event.image) for event in late] == [
        (Kind.CONTAINER_STARTED, ID_1),
        (Kind.CONTAINER_DIED, ID_1),
    ]
    assert translator.open == {}
    assert [event.kind for event in translator.reconcile([listed(CONTAINER)], 40)] == [Kind.CONTAINER_CREATED]


def test_layers_pair_with_history_base_first() -> None:
    layers = pair_layers(["sha256:a", "sha256:b"], [10, 3], 13, spread=False)
    assert [(layer.diff_id, layer.bytes) for layer in layers] == [("sha256:a", 10), ("sha256:b", 3)]
    assert layers[0].chain_id == "sha256:a"
    assert layers[1].chain_id == chain_id("sha256:a", "sha256:b")


def test_chain_id_is_that_of_the_image_specification() -> None:
    # Worked by `printf 'sha256:a sha256:b' | sha256sum`.
    assert chain_id("sha256:a", "sha256:b") == "sha256:" + CHAIN_A_B


CHAIN_A_B = "970a948bffa8de94d6e22d747ba8c95030e6e546909f98f54e99a13005e173a8"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([10], [10, 0]), (None, [0, 13]), ([], [0, 13]), ([1, 2, 3], [1, 2])],
)
def test_sizes_that_do_not_pair(sizes: list[int] | None, expected: list[int]) -> None:
    assert [layer.bytes for layer in pair_layers(["sha256:a", "sha256:b"], sizes, 13, spread=False)] == expected


def test_kept_compressed_content_is_spread_over_the_layers() -> None:
    layers = pair_layers(["sha256:a", "sha256:b"], [30, 10], 80, spread=True)
    assert [layer.bytes for layer in layers] == [60, 20]


def test_events_survive_the_spool_unchanged() -> None:
    event = Event(5, Kind.GAP, began_ns=3, attributes={"reason": "x"}, identity="y")
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


def test_the_log_names_the_volumes_of_a_container_once_however_they_became_known() -> None:
    translator = Translator(Names(containers={CONTAINER: ID_1}))

    def output(action: str, time_ns: int, image: str = ID_1) -> dict[str, Any]:
        (event,) = translator.translate(raw("container", action, CONTAINER, time_ns, image=image, name="c"))
        return dict(event.attributes)

    assert "volumes" not in output("create", 1)
    assert translator.translate(raw("volume", "mount", "data", 2, container=CONTAINER)) == []
    assert translator.translate(raw("volume", "mount", "stray", 2, container="d" * 64)) == []
    assert output("start", 3)["volumes"] == ["data"]
    assert "volumes" not in output("die", 4)
    listed = ListedContainer(CONTAINER, ID_1, "c", "exited", 1, {}, ("data", "late"))
    assert translator.reconcile([listed], 5) == []
    assert output("destroy", 6)["volumes"] == ["data", "late"]

    names = Names(containers={CONTAINER: ID_1})
    names.volumes[CONTAINER] = ("asked",)
    translator = Translator(names)
    assert output("create", 7, "name:1")["volumes"] == ["asked"]
    (gone,) = translator.reconcile([], 8)
    assert "volumes" not in gone.attributes
    (found,) = translator.reconcile([listed], 9)
    assert found.attributes["volumes"] == ["data", "late"]
