"""What pulls cost and who pays, jobs as a list, and the story of one image."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyzer import cli as analyzer_cli
from analyzer.audit.costs import costs
from analyzer.audit.grouping import By
from collector.cli import app
from collector.daemon.presence import Presence
from collector.eventlog import compaction
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.events import Event, Kind
from collector.model.observation import ImageObservation, Layer
from collector.model.units import format_bytes
from collector.queries.jobs import jobs
from collector.queries.pulls import PullKind, fold, read_pulls
from collector.queries.story import stories

G = "com.gitlab.gitlab-runner."
A, B, C = ("sha256:" + letter * 64 for letter in "abc")
S = 10**9
START = 1_795_507_200
MIB = 2**20


def layer(name: str, mib: int) -> dict[str, object]:
    return {"diff_id": name, "chain_id": name, "bytes": mib * MIB}


LAYERS = {A: [layer("base", 10), layer("a", 5)], B: [layer("base", 10), layer("b", 7)], C: [layer("c", 3)]}
NAMES = {A: "mesa/a:1", B: "mesa/b:1", C: "gst/c:1"}


def observed(second: int, image: str) -> Event:
    attributes = {"references": [NAMES[image]], "digests": [], "layers": LAYERS[image], "size": 1, "local": False}
    return Event((START + second) * S, Kind.IMAGE_OBSERVED, image, NAMES[image], attributes=attributes)


def pulled(second: int, image: str) -> Event:
    return Event((START + second) * S, Kind.IMAGE_PULLED, image, NAMES[image])


def deleted(second: int, image: str, **more: object) -> Event:
    return Event((START + second) * S, Kind.IMAGE_DELETED, image, attributes=more)


def job(number: int, second: int, image: str, project: str = "mesa/mesa", ref: str = "main") -> list[Event]:
    labels = {"job.id": str(number), "job.ref": ref, "type": "build", "project.id": str(len(project))}
    labels["job.url"] = f"https://git.example.org/{project}/-/jobs/{number}"
    attributes = {"labels": {G + key: value for key, value in labels.items()}}
    at = (START + second) * S
    return [
        Event(at, Kind.CONTAINER_CREATED, image, image, f"c{number}", attributes=attributes),
        Event(at + 5 * S, Kind.CONTAINER_DESTROYED, image, container=f"c{number}", began_ns=at),
    ]


PRUNE = {"prune": "p1", "reason": "evict", "detail": "least recently used: last used 3 h ago", "trigger": "timer"}


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb")
    made.append(
        [
            *(pulled(0, A), observed(1, A), *job(1, 2, A)),
            *(pulled(10, B), observed(11, B), *job(2, 12, B, ref="next")),
            *(pulled(20, A), *job(3, 21, A), *job(4, 30, A)),
            *(pulled(40, C), observed(41, C), *job(5, 42, C, "gst/gst")),
            Event((START + 100) * S, Kind.PRUNE_STARTED, attributes={**PRUNE, "plan": {"images": []}}),
            deleted(101, A),
            Event((START + 102) * S, Kind.ITEM_REMOVED, A, NAMES[A], bytes=5 * MIB, attributes=PRUNE),
            *(pulled(200, A), observed(201, A), *job(6, 202, A, "gst/gst")),
            deleted(300, C),
        ]
    )
    return made


def test_a_pull_costs_the_layers_that_were_missing(log: EventLog) -> None:
    with log.reading() as connection:
        found = read_pulls(connection, log.host)
        names = dict(connection.execute("SELECT job, job_id FROM job").fetchall())
    output = [(pull.reference, pull.kind, pull.bytes // MIB, names[pull.job or 0]) for pull in found]
    assert output == [
        (NAMES[A], PullKind.FIRST, 15, "1"),
        (NAMES[B], PullKind.FIRST, 7, "2"),
        (NAMES[A], PullKind.UP_TO_DATE, 0, "3"),
        (NAMES[C], PullKind.FIRST, 3, "5"),
        (NAMES[A], PullKind.AGAIN, 5, "6"),
    ]


def test_a_layer_goes_with_its_last_image_only() -> None:
    layers = {1: (("x", 10), ("y", 1)), 2: (("x", 10), ("z", 2))}
    happened = [(1, "image_pulled", 1), (2, "image_pulled", 2), (3, "image_deleted", 1), (4, "image_pulled", 1)]
    happened += [(5, "image_deleted", 1), (6, "image_deleted", 2), (6, "image_deleted", 2), (7, "image_pulled", 1)]
    rows = [(time, number, kind, image, None, None) for number, (time, kind, image) in enumerate(happened)]
    assert [pull.bytes for pull in fold(rows, layers)] == [11, 2, 1, 11]


def test_jobs_are_listed_with_images_and_pulls(log: EventLog) -> None:
    rows = jobs(log)
    assert [row.job_id for row in rows] == ["6", "5", "4", "3", "2", "1"]
    first = rows[0]
    assert (first.project, first.ref, first.images, first.seconds) == ("gst/gst", "main", [NAMES[A]], 5.0)
    assert (first.pulls, first.pulled_bytes, first.repulls, first.repulled_bytes) == (1, 5 * MIB, 1, 5 * MIB)
    assert (rows[3].pulls, rows[5].pulled_bytes, rows[5].repulls) == (0, 15 * MIB, 0)
    assert [row.job_id for row in jobs(log, "gst/gst", 1)] == ["6"]
    assert jobs(log, "no/such") == []
    shown = CliRunner().invoke(app, ["jobs", "--log", str(log.path), "--format", "json"])
    assert [row["job_id"] for row in json.loads(shown.output)] == ["6", "5", "4", "3", "2", "1"]
    table = (
        CliRunner().invoke(app, ["jobs", "--log", str(log.path), "--project", "gst/gst"], env={"COLUMNS": "200"}).output
    )
    assert len(table.splitlines()) == 3


def test_costs_are_reported_by_project_ref_and_image(log: EventLog) -> None:
    def output(by: By) -> list[tuple[str, int, int, int, int, int, int]]:
        return [
            (
                row.name,
                row.jobs,
                row.images,
                row.held_bytes // MIB,
                row.own_bytes // MIB,
                row.repulls,
                row.repulled_bytes // MIB,
            )
            for row in costs(log, by)
        ]

    assert output(By.PROJECT) == [("mesa/mesa", 4, 2, 22, 7, 0, 0), ("gst/gst", 2, 1, 15, 0, 1, 5)]
    assert output(By.REF) == [
        ("mesa/mesa next", 1, 1, 17, 7, 0, 0),
        ("gst/gst main", 2, 1, 15, 0, 1, 5),
        ("mesa/mesa main", 3, 1, 15, 0, 0, 0),
    ]
    assert output(By.IMAGE) == [
        (NAMES[B], 1, 1, 17, 7, 0, 0),
        (NAMES[A], 4, 1, 15, 5, 1, 5),
        (NAMES[C], 1, 0, 0, 0, 0, 0),
    ]
    shown = CliRunner().invoke(analyzer_cli.app, ["costs", "--log", str(log.path), "--by", "image", "--format", "json"])
    assert json.loads(shown.output)[0]["name"] == NAMES[B]
    table = CliRunner().invoke(analyzer_cli.app, ["costs", "--log", str(log.path)]).output
    assert "mesa/mesa" in table
    assert format_bytes(22 * MIB) in table


def test_what_no_job_uses_is_counted_all_the_same(log: EventLog) -> None:
    other = "sha256:" + "d" * 64
    NAMES[other], LAYERS[other] = "left/over:1", [layer("d", 2)]
    log.append([observed(400, other)])
    assert ("(no job)", 0, 1, 2 * MIB) in [
        (row.name, row.jobs, row.images, row.held_bytes) for row in costs(log, By.PROJECT)
    ]


def test_the_story_of_an_image_says_who_and_why(log: EventLog) -> None:
    (output,) = stories(log, "mesa/a:1")
    assert not output.gone
    assert [(one.what, one.count, one.jobs, one.bytes) for one in output.episodes] == [
        ("pulled", 1, 0, 15 * MIB),
        ("used", 3, 3, None),
        ("removed", 1, 0, 5 * MIB),
        ("pulled", 1, 0, 5 * MIB),
        ("used", 1, 1, None),
    ]
    details = [one.detail for one in output.episodes]
    assert details[0] == "mesa/a:1, for a job of mesa/mesa"
    assert details[1] == "3 uses by 3 jobs of mesa/mesa, 1 pull that found it up to date, within 33 s"
    assert details[2] == "by the pruner (timer): least recently used: last used 3 h ago"
    assert details[3] == "mesa/a:1 again, for a job of gst/gst"
    (gone,) = stories(log, "gst/c:1")
    assert gone.gone
    assert (gone.episodes[-1].what, gone.episodes[-1].detail) == ("removed", "by somebody else than the pruner")


@pytest.mark.parametrize("text", [A, A[:12], "a" * 12, "docker.io/mesa/a:1", "mesa/a:1"])
def test_an_image_is_meant_by_name_or_beginning_of_its_id(log: EventLog, text: str) -> None:
    assert [output.image_id for output in stories(log, text)] == [A]


def test_a_long_history_is_folded_and_an_unknown_image_said_in_one_line(log: EventLog) -> None:
    log.append([event for number in range(1000, 1500) for event in job(number, number, B, f"g/{number % 5}")])
    (output,) = stories(log, NAMES[B])
    assert len(output.episodes) == 2
    assert output.episodes[1].detail.startswith("501 uses by 501 jobs of g/0, g/1, g/2 and 3 more")
    with pytest.raises(UsageError, match="no image that this host has ever held is 'x:1'"):
        stories(log, "x:1")
    with pytest.raises(UsageError, match=r"'esa/b': did you mean mesa/b:1\?|'esa/b': did you mean .*mesa/b:1"):
        stories(log, "esa/b")
    shown = CliRunner().invoke(app, ["explain", "mesa/b:1", "--log", str(log.path)])
    assert len(shown.output.splitlines()) < 12
    data = CliRunner().invoke(app, ["explain", "mesa/b:1", "--log", str(log.path), "--format", "json"])
    assert json.loads(data.output)[0]["episodes"][1]["jobs"] == 501


def seen(image: str, chains: list[str], *, local: bool, created: str = "2026-11-24T08:00:00Z") -> ImageObservation:
    layers = tuple(Layer(chain, chain, 1) for chain in chains)
    return ImageObservation(image, (), () if local else ("r.example.org/x@sha256:1",), created, None, 1, layers)


def test_what_an_image_was_built_on_is_reported_by_its_layers() -> None:
    presence = Presence()
    now = START * S + 60 * S
    for image, chains in ((A, ["x"]), (B, ["x", "xy"]), (C, ["z"])):
        presence.observed(seen(image, chains, local=False), now)
    built = seen("sha256:" + "e" * 64, ["x", "xy", "xyz"], local=True)
    assert [(event.kind, event.image) for event in presence.bases(built, now)] == [(Kind.BASE_USED, B)]
    presence.observed(built, now)
    # Not again, and not for what was built long ago.
    assert presence.bases(built, now) == []
    other = "sha256:" + "f" * 64
    assert presence.bases(seen(other, ["x", "q"], local=True, created="2026-11-23T08:00:00Z"), now) == []
    assert presence.bases(seen(other, ["q"], local=True), now) == []


def folded(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold all but the last events of a log."""
    monkeypatch.setattr(compaction, "FOLD_EVERY", 2)
    monkeypatch.setattr(compaction, "_HELD_BACK", 1)
    log._due = 0
    log.append([Event((START + 2_000 + k) * S, Kind.DISK_SAMPLED, bytes=1) for k in range(4)])
    with log.reading() as connection:
        assert (compaction.reached(connection) or 0) > 0


def test_a_story_counts_uses_long_before_the_last(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append([event for number in range(1000, 1050) for event in job(number, number, B, f"g/{number % 5}")])
    # One that was created before what is looked at and ends after it, and removals by whom all say.
    log.append([*job(1050, 1050, B)[:1], *job(1051, 1051, B), *job(1052, 1052, B), *job(1050, 1050, B)[1:]])
    log.append([deleted(1060, B), Event((START + 1061) * S, Kind.ITEM_REMOVED, B, NAMES[B], bytes=7, attributes=PRUNE)])
    log.append([pulled(1070, B), *job(1053, 1071, B)])
    (whole,) = stories(log, NAMES[B], None)
    assert stories(log, NAMES[B], 1) == [whole], "what is not folded costs nothing to look at"
    folded(log, monkeypatch)
    assert stories(log, NAMES[B], None) == [whole]
    assert stories(log, NAMES[B]) == [whole]
    (short,) = stories(log, NAMES[B], 9)
    others, all_others = ([one for one in output.episodes if one.what != "used"] for output in (short, whole))
    assert [(one.began, one.what, one.bytes) for one in others] == [
        (one.began, one.what, one.bytes) for one in all_others
    ]
    assert "(timer)" in others[-2].detail
    used, all_used = ([one for one in output.episodes if one.what == "used"] for output in (short, whole))
    assert sum(one.count for one in used) == sum(one.count for one in all_used) == 55
    assert used[0].began == all_used[0].began
    assert used[0].detail == "52 earlier uses, only counted: --all looks at each"
    assert used[0].ended == used[1].began
    assert used[1].detail == "2 uses by 2 jobs of mesa/mesa, within 6 s"
    assert used[2] == all_used[-1]
    shown = CliRunner().invoke(app, ["explain", NAMES[B], "--all", "--log", str(log.path), "--format", "json"])
    assert json.loads(shown.output)[0]["episodes"] == [asdict(one) for one in whole.episodes]


def test_a_story_looks_back_from_the_last_of_an_image_that_is_long_gone(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append([event for number in range(1000, 1050) for event in job(number, number, B)])
    (whole,) = stories(log, NAMES[C], None)
    folded(log, monkeypatch)
    assert stories(log, NAMES[C], 20) == [whole]
    (short,) = stories(log, C[:15], 2)
    assert [(one.what, one.count) for one in short.episodes] == [(one.what, one.count) for one in whole.episodes]
