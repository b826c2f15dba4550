"""Whatever an engine, an image, a job or a file says: it is taken, or unknown and one line; nothing ends."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.engine.content import compressed_sizes
from collector.engine.provenance import by_identity, by_manifests
from collector.engine.stream import Reader
from collector.engine.translate import HIDEABLE, Translator
from collector.eventlog.log import EventLog
from collector.eventlog.spool import Spool
from collector.machine.clock import Clock
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from collector.model.jobs import JOB_LABELS, job_of, orchestrator_of, project_of
from collector.model.observation import ListedContainer
from collector.model.origin import Origin
from collector.model.units import parse_bytes, parse_duration
from collector.model.untrusted import MOST_LABEL, MOST_LABELS, read_json, whole
from pruner.state.job_slots import read_slots
from tests import commands, hostile
from tests.collector.runner_lines import read_lines
from tests.collector.test_translate import CONTAINER, ID_1, ID_2, Names, raw

NOW_NS = time.time_ns()
events = hostile.objects_with(
    Type=st.sampled_from(["image", "container"]),
    Action=st.sampled_from(["create", "start", "die", "destroy", "commit", "pull", "tag", "delete", "import", "load"]),
    Actor=hostile.objects_with(
        ID=st.sampled_from([CONTAINER, ID_1, "a:1"]),
        Attributes=st.dictionaries(
            st.sampled_from(["image", "name", "exitCode", "imageID", "imageRef", *JOB_LABELS]), hostile.leaf, max_size=6
        ),
    ),
    timeNano=st.integers(1, NOW_NS),
    time=st.integers(1, NOW_NS // 10**9),
)


def storable(tmp_path: Path, found: list[Event]) -> None:
    """All of it can be stored, kept in a spool, and read again."""
    assert [Event.from_json(json.loads(json.dumps(event.to_json()))) for event in found] == found
    clock = Clock()
    stamped = [clock.stamped(event) for event in found]
    log = EventLog(tmp_path / f"{time.time_ns()}.duckdb")
    log.append(stamped)
    if stamped:
        assert log.query("SELECT count(*) > 0, max(epoch_ns(time)) <= ? FROM events", [time.time_ns() + 61 * 10**9])


@given(st.lists(events | st.dictionaries(hostile.any_text, hostile.any_json), max_size=3))
def test_events_of_any_shape_are_taken(rows: list[dict[str, Any]]) -> None:
    translator = Translator(Names())
    for line in rows:
        for event in translator.translate(line):
            assert 0 < event.time_ns < 2**63
            assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event
            assert event.key >= 0


def test_events_of_any_shape_are_stored(tmp_path: Path) -> None:
    leaves = [*hostile.TEXTS, *hostile.NUMBERS, [], {}, ["a"], {"a": 1}]
    translator = Translator(Names())
    rows = [
        *({**raw("container", "die", f"{k:064}", image="a:1"), "timeNano": leaf} for k, leaf in enumerate(leaves)),
        *(
            raw(
                "container",
                "create",
                f"{k + 500:064}",
                NOW_NS,
                **dict.fromkeys(("image", "name", *JOB_LABELS[:2]), leaf),
            )
            for k, leaf in enumerate(leaves)
        ),
        *(raw("image", "tag", leaf, NOW_NS + k, name=leaf) for k, leaf in enumerate(leaves)),
        *({**raw("image", "pull", "a:1", NOW_NS + k), "Actor": leaf} for k, leaf in enumerate(leaves)),
    ]
    read = [read_json(hostile.as_json(line)) for line in rows]
    storable(tmp_path, [event for line in read for event in translator.translate(line)])


def test_an_event_that_cannot_be_read_is_stored_as_it_is_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    translator = Translator(Names())
    broken = {**raw("image", "pull", "a:1"), "timeNano": "yesterday"}
    (first,) = translator.translate(broken)
    (second,) = translator.translate({**broken, "Action": "tag"})
    assert {first.kind, second.kind} == {Kind.EVENT_UNREADABLE}
    assert json.loads(first.attributes["raw"]) == broken
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    # The next is taken as ever.
    assert translator.translate(raw("image", "pull", "a:1", 5))[0].kind is Kind.IMAGE_PULLED


class Chunks:
    """A stream of given chunks."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def close(self) -> None:
        """Nothing is open."""


def test_a_line_that_is_no_event_is_handed_on_and_hides_no_other() -> None:
    good = json.dumps(raw("image", "pull", "a:1", 7)).encode()
    lines = [b"{", hostile.TOO_DEEP.encode(), b"[1]", b"\xff\xfe", b'{"time": 1' + b"0" * 9999 + b"}", good]
    reader = Reader(Chunks(b"\n".join(lines) + b"\n"))
    found = reader.read(10)
    assert isinstance(found, list)
    translator = Translator(Names())
    kinds = [event.kind for line in found for event in translator.translate(line)]
    assert kinds == [Kind.EVENT_UNREADABLE] * 5 + [Kind.IMAGE_PULLED]
    reader.close()


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collector.engine.stream._MOST_LINE", 1000)
    reader = Reader(Chunks(*[b"x" * 400] * 5))
    found = [event for _ in range(5) for event in reader.read(10)]  # type: ignore[union-attr]
    assert [event["bytes"] for event in found] == [1200]
    reader.close()


LIES = {"exitCode": "boom", "imageID": ID_2, "imageRef": "victim:1", "execDuration": "x", "image": "v", "name": "v"}


def test_a_label_does_not_pass_for_what_the_engine_says() -> None:
    translator = Translator(Names({"evil:1": ID_1}))
    labels = {**LIES, "image": "evil:1", "name": "c"}  # these two the engine writes over labels
    (created,) = translator.translate(raw("container", "create", CONTAINER, 1, **labels))
    (died,) = translator.translate(raw("container", "die", CONTAINER, 2, **labels))
    (committed,) = translator.translate(raw("container", "commit", CONTAINER, 3, **labels))
    assert created.attributes["labels"]["exitCode"] == "boom"
    assert created.attributes["name"] == "c"
    assert "exit_code" not in died.attributes
    assert (committed.kind, committed.image, committed.reference) == (Kind.IMAGE_BUILT, None, None)


@pytest.mark.parametrize("start", ["listed", "unknown"])
def test_nor_where_the_container_was_there_before(start: str) -> None:
    translator = Translator(Names())
    if start == "listed":
        translator.reconcile([ListedContainer(CONTAINER, ID_1, "c", "running", 1, LIES)], 2)
        (died,) = translator.translate(raw("container", "die", CONTAINER, 3, **LIES))
        assert "exit_code" not in died.attributes
    (committed,) = translator.translate(raw("container", "commit", CONTAINER, 4, **LIES))
    assert (committed.image, committed.reference) == (None, None)


@pytest.mark.parametrize(
    ("said", "known"), [("7", 7), ("-1", -1), ("boom", None), ("", None), ("1e3", None), ("9" * 30, None)]
)
def test_exit_codes_are_numbers_or_unknown(said: str, known: int | None) -> None:
    translator = Translator(Names())
    translator.translate(raw("container", "create", CONTAINER, 1, image=ID_1))
    (died,) = translator.translate(raw("container", "die", CONTAINER, 2, image=ID_1, exitCode=said))
    assert died.attributes.get("exit_code") == known


def test_huge_and_countless_labels_are_cut_with_their_length(tmp_path: Path) -> None:
    labels = {f"l{k}": "x" for k in range(10**5)} | {"big": "y" * 2**20} | dict.fromkeys(JOB_LABELS, "1001")
    translator = Translator(Names())
    (created,) = translator.translate(raw("container", "create", CONTAINER, NOW_NS, image=ID_1, **labels))
    kept = created.attributes["labels"]
    assert len(kept) == MOST_LABELS
    assert created.attributes["labels_in_all"] == len(labels)
    assert set(JOB_LABELS) <= set(kept)
    (big,) = translator.translate(raw("container", "create", "d" * 64, NOW_NS, image=ID_1, big="y" * 2**20))
    assert big.attributes["labels"]["big"] == "y" * MOST_LABEL + "… (1,048,576 characters)"
    storable(tmp_path, [created, big])


def test_the_labels_that_are_kept_first_are_all_that_jobs_and_orchestrators_are_known_by() -> None:
    asked: set[str] = set()

    class Noting(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

        def __getitem__(self, key: str) -> str:
            asked.add(key)
            return super().__getitem__(key)

    for one in JOB_LABELS:
        for other in JOB_LABELS:
            job_of(Noting({one: "x", other: "x"}))
    assert orchestrator_of(Noting()) is None
    assert asked == set(JOB_LABELS)
    assert not HIDEABLE & set(JOB_LABELS)


@given(st.dictionaries(st.sampled_from(JOB_LABELS) | hostile.any_text, hostile.any_text), hostile.any_text)
def test_labels_of_any_kind_name_a_job_or_none(labels: Mapping[str, str], name: str) -> None:
    found = job_of(labels, name)
    assert found is None or found[0].is_same(found[0])
    project_of(name)


@pytest.mark.parametrize(
    "url", ["http://[", "http://a℀b/", "https://[::1", "http://[v1.x]/p/-/jobs/1", "//", "http://h:x/p"]
)
def test_an_address_of_any_shape_is_not_a_fault(url: str) -> None:
    label = "com.gitlab.gitlab-runner."
    found = job_of({f"{label}job.id": "1", f"{label}job.url": url})
    assert found is not None
    job = found[0]
    assert job.url == url
    assert job.is_same(job)
    for line in (f'{{"msg":"Job succeeded","job":"1","repo_url":"{url}"}}', f"Job succeeded job=1 repo_url={url}"):
        assert [fact is not None for _, fact in read_lines([line])] == [True]


manifests = hostile.objects_with(
    layers=st.lists(hostile.objects_with(digest=st.just("sha256:" + "1" * 64), mediaType=st.just("x+gzip"))),
    config=hostile.objects_with(digest=st.just("sha256:" + "2" * 64)),
    manifests=st.lists(hostile.objects_with(digest=st.just("sha256:" + "3" * 64))),
    rootfs=hostile.objects_with(diff_ids=st.just(["sha256:a"])),
    fsLayers=st.lists(hostile.leaf, max_size=2),
)


def written(folder: Path, *contents: str) -> None:
    """Manifests as the containerd store and Podman keep them."""
    blobs = folder / "containerd/daemon/io.containerd.content.v1.content/blobs/sha256"
    images = folder / "overlay-images" / ("0" * 64)
    for one in (blobs, images):
        one.mkdir(parents=True, exist_ok=True)
    for digit, content in zip("0123", contents * 4, strict=False):
        (blobs / (digit * 64)).write_text(content, errors="surrogatepass")
        (images / "manifest").write_text(content, errors="surrogatepass")


@given(st.data())
def test_manifests_of_any_shape_are_read_or_unknown(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("store")
    one, other = data.draw(manifests | hostile.any_json), data.draw(manifests)
    written(folder, hostile.as_json(one), hostile.as_json(other))
    found = compressed_sizes(str(folder), "sha256:" + "0" * 64, ["sha256:a"])
    assert found is None or all(size >= 0 for size in found)
    assert by_manifests(str(folder), "sha256:" + "0" * 64) in Origin
    assert by_identity({"Identity": one}) in Origin


@pytest.mark.parametrize(
    "content",
    [
        *(hostile.TOO_DEEP, '{"layers": [], "x": ' + hostile.TOO_DEEP + "}", "", "[]", "null", '{"layers": {"a": 1}}'),
        *(
            '{"layers": [1, null]}',
            '{"layers": 5}',
            '{"config": "x"}',
            '{"manifests": {"digest": 1}}',
            '{"manifests": 7}',
        ),
    ],
)
def test_a_malformed_manifest_is_unknown(tmp_path: Path, content: str) -> None:
    written(tmp_path, content)
    assert compressed_sizes(str(tmp_path), "sha256:" + "0" * 64, ["sha256:a"]) is None
    assert by_manifests(str(tmp_path), "sha256:" + "0" * 64) in {Origin.UNKNOWN, Origin.LOCAL}


@pytest.mark.parametrize(
    ("value", "known"),
    [(True, None), (1.0, None), ("7", 7), ("²", None), ([], None), (-1, None), (2**60, 2**60), (2**60 + 1, None)],
)
def test_a_whole_number_is_one_in_its_range(value: object, known: int | None) -> None:
    assert whole(value) == known


def test_an_event_from_the_future_does_not_hold_the_clock_there() -> None:
    clock = Clock()
    far = 2**62
    stamped = clock.stamped(Event(far, Kind.IMAGE_PULLED, image=ID_1))
    assert stamped.time_ns <= time.time_ns()
    assert stamped.attributes["own_time_ns"] == far
    clock.resume(stamped.time_ns)
    assert clock.stamped(Event(time.time_ns(), Kind.IMAGE_PULLED)).attributes == {}


@pytest.mark.parametrize("text", ["9" * 400, f"{'9' * 400}GB", f"{'9' * 400}d", "1073741825GiB", "100000d", "9" * 5000])
def test_an_amount_beyond_all_use_is_none(text: str) -> None:
    for parse in (parse_bytes, parse_duration):
        with pytest.raises(ValueError, match=r"is too much for|is not a|has no unit") as rows:
            parse(text)
        assert len(str(rows.value)) < 300
    assert parse_bytes("1073741824GiB") == 2**60


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 5000, "concurrent = " + "9" * 5000, "concurrent = 1e9", "concurrent = 0"]
)
def test_a_file_of_settings_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="set job_slots"):
        read_slots(path)
    done = commands.run("pruner", "plan", "--policy", str(path), "--host", "unix:///none")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@given(st.lists(hostile.objects_with(time_ns=st.just(1), kind=st.just("gap"), attributes=st.just({})), max_size=3))
def test_a_spool_with_lines_of_any_shape_blocks_no_append(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("spool") / "s"
    lines = [hostile.TOO_DEEP, "{", *map(hostile.as_json, rows)]
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass")
    spool = Spool(path, 4096)
    with spool.draining() as events:
        assert len(events) == len(lines)
        assert events.count(None) >= 2
    assert spool.waiting() == 0
    (kept,) = path.parent.glob("s.damaged-*")
    assert hostile.TOO_DEEP in kept.read_text()
