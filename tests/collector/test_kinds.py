"""What the program knows of each kind of event stands in one table: everything that derives from it agrees."""

from __future__ import annotations

import re
import time

import duckdb
import pytest

from collector.eventlog.database import open_database
from collector.eventlog.log import EventLog
from collector.eventlog.view_definitions import VIEWS
from collector.eventlog.views import show
from collector.model.events import COUNTED, LIVE, USES, WATCHING, Event, Kind
from collector.model.jobs import ci_job
from collector.model.traits import Reporter, Use
from collector.queries.coverage import coverage, last_observed_ns
from collector.queries.images import images
from collector.queries.tally import Tally
from pruner.state.event_watch import EVIDENCE

IMAGE = "sha256:" + "a" * 64
HOUR_NS = 3600 * 10**9


def test_view_and_metric_and_table_agree_on_what_is_a_use(log: EventLog) -> None:
    images = {kind: f"sha256:{number:064x}" for number, kind in enumerate(Kind)}
    log.append([Event(7, kind, image=image, container=image[7:], began_ns=5) for kind, image in images.items()])
    tally = Tally()
    tally.advance(log)
    expected = [(images[kind], 7, kind.traits.happened) for kind in Kind if kind in USES]
    found = log.query("SELECT image_id, epoch_ns(last_use), evidence FROM last_use ORDER BY image_id")
    assert found == expected
    assert {image: round(used * 1e9) for image, used in tally.last_use.items()} == {row[0]: row[1] for row in expected}
    words = log.query("SELECT image_id, evidence FROM uses JOIN image USING (image)")
    assert {(images[kind], kind.traits.evidence) for kind in Kind} >= set(words)
    assert set(EVIDENCE) == {kind for kind in USES if kind.traits.reporter is Reporter.ENGINE}


def test_what_others_write_does_not_hide_that_the_collector_was_away(log: EventLog) -> None:
    """Two days without a collector, in which a runner's log was ingested, or the pruner ran, or a start failed."""
    log.append([Event(HOUR_NS, Kind.COLLECTOR_STARTED), Event(HOUR_NS + 1, Kind.DISK_SAMPLED, bytes=1)])
    job = {"job": {"ci": "gitlab", "job_id": "1"}}
    log.append([Event(49 * HOUR_NS, kind, image=IMAGE, attributes=job) for kind in Kind if kind not in WATCHING])
    assert last_observed_ns(log) == HOUR_NS + 1
    with log.reading() as connection:
        assert coverage(connection, log.host).last == (HOUR_NS + 1) / 1e9


def test_a_collector_that_was_stopped_while_the_engine_was_away_had_not_watched(log: EventLog) -> None:
    log.append([Event(1, Kind.DISK_SAMPLED, bytes=1), Event(5, Kind.COLLECTOR_STOPPED)])
    assert last_observed_ns(log) == 5
    log.append([Event(9, Kind.COLLECTOR_STOPPED, attributes={"following": False})])
    assert last_observed_ns(log) == 5


def test_a_view_that_has_changed_reaches_a_log_that_is_there(log: EventLog) -> None:
    log.append([Event(1, Kind.GAP)])
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("CREATE OR REPLACE VIEW gaps AS SELECT 'an older text' AS host")
        connection.execute("UPDATE schema_version SET views = 'that of an older program'")
    # The program itself asks its own text at once, also where it may not write.
    assert log.query("SELECT host FROM gaps") == [("runner",)]
    log.append([Event(2, Kind.GAP)])
    with duckdb.connect(str(log.path), read_only=True) as connection:
        assert connection.execute("SELECT host FROM gaps").fetchall() == [("runner",), ("runner",)]


def test_each_view_is_made_with_all_that_it_needs_when_it_is_first_asked(log: EventLog) -> None:
    log.append([Event(1, Kind.GAP)])
    names = re.findall(r"CREATE OR REPLACE VIEW (\w+)", VIEWS)
    forged = "; ".join(f"DROP VIEW {name}; CREATE VIEW {name} AS SELECT 'forged' AS host" for name in names)
    with duckdb.connect(str(log.path)) as connection:
        connection.execute(forged)
    made = "SELECT view_name FROM duckdb_views() WHERE temporary AND NOT internal"
    with open_database(log.path, read_only=True) as connection:
        for name in names:
            with connection.cursor() as one:
                one.execute(f"USE {log.path.stem}")
                shown = show(one)
                assert shown.execute(made).fetchall() == [("event",)]
                columns = shown.execute(f'FROM "{name.upper()}"').description
                assert len(columns) > 1
                assert (name,) in shown.execute(made).fetchall()
    assert log.query("SELECT repository_of('docker.io/library/debian:12')") == [("debian",)]


@pytest.mark.parametrize(
    ("labels", "name", "job"),
    [
        ({"com.gitlab.gitlab-runner.job.id": "17"}, "runner-x-project-1-concurrent-0", "17"),
        ({"com.buildkite.job_id": "0190"}, "", "0190"),
        ({"io.kubernetes.pod.name": "p", "io.kubernetes.pod.uid": "u1", "io.kubernetes.pod.namespace": "n"}, "", "u1"),
        ({}, "k8s_build_pod_space_uid7_0", "uid7"),
        ({"com.nirima.jenkins.plugins.docker.JenkinsId": "agent"}, "", "agent"),
        ({"com.docker.compose.project": "web"}, "web-1", None),
        ({}, "postgres", None),
    ],
)
def test_the_job_of_a_container_is_the_same_for_all_that_ask(
    labels: dict[str, str], name: str, job: str | None
) -> None:
    assert ci_job(labels, name) == job


def test_every_kind_says_what_follows_from_it() -> None:
    for kind in Kind:
        traits = kind.traits
        assert traits.meaning
        assert (traits.use is None) == (traits.evidence == "")
        assert traits.use is None or traits.happened
        assert traits.use is not Use.FOUND
        assert kind not in LIVE or traits.reporter is Reporter.COLLECTOR


def test_what_counts_as_a_use_counts_in_every_column(log: EventLog) -> None:
    now_ns = time.time_ns()
    shown = {"references": ["a:1"], "size": 1, "layers": []}
    log.append([Event(now_ns - 10**9, Kind.IMAGE_OBSERVED, IMAGE, "a:1", attributes=shown)])
    log.append([Event(now_ns - number, kind, IMAGE, "a:1") for number, kind in enumerate(COUNTED)])
    (row,) = images(log)
    assert row.uses == row.uses_7_days == len(COUNTED)
