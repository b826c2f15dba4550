"""What an image says of itself, and what a folder is called, end no analysis."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import duckdb
import pytest

from analyzer.trace.load import load_trace
from analyzer.trace.parquet import ParquetLog, export_parquet, parquet_hosts
from collector.eventlog.log import EventLog
from collector.model.events import Event, Kind
from collector.model.observation import ImageObservation, Layer, pair_layers
from collector.model.origin import Origin
from collector.queries.jobs import jobs
from collector.queries.story import stories
from collector.shipping.parts import EVENTS
from pruner.state.inventory import ImageRecord, image_of
from tests.analyzer.command import analyzer
from tests.analyzer.made_host import HOUR, T0, S, make_week
from tests.needs import first_fast

TIMES = {
    **dict.fromkeys(
        [
            *(
                "9999-12-31T23:59:59Z",
                "2300-01-01T00:00:00Z",
                "1600-01-01T00:00:00Z",
                "0001-01-01T00:00:00Z",
                "infinity",
            ),
            *(
                "2262-04-12T00:00:00Z",
                "-infinity",
                "1969-12-31T23:59:59Z",
                "yesterday",
                "",
                "2023-02-30T00:00:00Z",
                "9" * 99,
            ),
            "2024-01-01T00:00:00Z",  # after it was first seen
        ]
    ),
    "2023-11-01T00:00:00Z": 1_698_796_800.0,
    "1970-01-01T00:00:01Z": 1.0,
}


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    made = EventLog(tmp_path / "events.duckdb", host="h")
    make_week(made)
    return made


def test_what_is_not_a_build_time_is_unknown_and_ends_no_analysis(log: EventLog) -> None:
    seen_ns = T0 + 5 * HOUR * S
    log.append(
        [
            Event(
                seen_ns,
                Kind.IMAGE_OBSERVED,
                image=f"sha256:{number + 500:064x}",
                attributes={"references": [f"t:{number}"], "digests": [], "created": created, "size": 1, "layers": []},
            )
            for number, created in enumerate(TIMES)
        ]
    )
    done = analyzer("simulate", "--log", str(log.path), "--threshold", "10%", "--format", "json")
    assert done.returncode == 0, done.stderr
    trace = load_trace(log)
    names = {references[0]: number for number, references in enumerate(trace.references) if references}
    for number, (created, known) in enumerate(TIMES.items()):
        found = float(trace.created[names[f"t:{number}"]]) + trace.origin_ns / 1e9
        assert found == pytest.approx(known or 0.0), created
        seen = ImageObservation("sha256:1", (), (), created, None, 1, (), Origin.REGISTRY)
        past = ImageRecord(seen_ns / 1e9)
        # The pruner says the same of it, and it does not stay forever.
        assert image_of(seen, past, (), seen_ns / 1e9 + HOUR).created == (known or 0.0)
        assert image_of(seen, None, (), 1_703_000_000.0).created <= 1_703_000_000.0


@pytest.mark.parametrize("name", first_fast("g[1]", "a=b", "q?w*", "it's", "host=x", "day=2026-01-01"))
def test_an_export_into_a_folder_of_any_name_is_read_back(log: EventLog, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    for _ in range(2):
        done = analyzer("export", "--log", str(log.path), "--parquet", str(folder))
        assert done.returncode == 0, done.stderr
    one = analyzer("simulate", "--log", str(log.path), "--threshold", "10%", "--format", "json")
    other = analyzer("simulate", "--log", str(folder), "--threshold", "10%", "--format", "json")
    assert (other.returncode, other.stderr) == (0, "")
    assert other.stdout == one.stdout


def test_a_part_of_any_name_ends_no_reading_of_the_others(log: EventLog, tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    (exported,) = export_parquet(log, folder)
    own = folder / EVENTS / f"host={exported.host}"
    for name in ("host=a=b", "host=a\nb", "host=[x]", "host=day=1"):
        shutil.copytree(own, folder / EVENTS / name)
    next(own.glob("day=*")).rename(own / "a=b")
    for host in parquet_hosts(folder):
        with ParquetLog(folder, host).reading() as connection:
            assert connection.execute("SELECT DISTINCT host FROM event").fetchall() == [(host,)]
            assert connection.execute("SELECT count(*) FROM event").fetchall() == [(exported.events,)]


def test_an_image_of_127_layers_is_stored_and_simulated(log: EventLog) -> None:
    digests = [f"sha256:{number:064x}" for number in range(127)]
    layers = pair_layers(digests, [2**52] * 127, 2**59, spread=False)
    seen = ImageObservation("sha256:" + "f" * 64, ("deep:1",), (), None, None, 2**59, layers, Origin.REGISTRY)
    log.append([Event(T0 + HOUR * S, Kind.IMAGE_OBSERVED, image=seen.image, attributes=seen.attributes())])
    assert log.query("SELECT count(*), sum(bytes) FROM image_layers WHERE image_id = ?", [seen.image]) == [
        (127, 127 * 2**52)
    ]
    assert all(isinstance(layer, Layer) for layer in layers)
    began = time.monotonic()
    done = analyzer("simulate", "--log", str(log.path), "--threshold", "10%")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60


def test_parquet_of_something_else_is_refused_in_one_line(log: EventLog, tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    assert analyzer("export", "--log", str(log.path), "--parquet", str(folder)).returncode == 0
    found = next((folder / EVENTS).rglob("*.parquet"))
    for sql in ("SELECT 'x' AS kind", "SELECT 5 AS image, 'h' AS host", "SELECT NULL::INTEGER AS schema_version"):
        duckdb.execute(f"COPY ({sql}) TO '{found}' (FORMAT parquet)")
        done = analyzer("simulate", "--log", str(folder), "--threshold", "10%")
        assert done.returncode == 1, done.stdout
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_policy_file_without_end_is_refused(log: EventLog, tmp_path: Path) -> None:
    policy, base = tmp_path / "policy.toml", tmp_path / "base.toml"
    with base.open("wb") as file:
        file.truncate(2**40)
    for included, why in (("/dev/zero", "it is not a regular file"), (str(base), "File too large")):
        policy.write_text(f"include = '{included}'\n")
        done = analyzer("simulate", "--log", str(log.path), "--policy", str(policy))
        assert done.returncode == 2
        assert done.stderr.endswith(f"cannot be read: {why}\n")


@pytest.mark.parametrize("columns", [0, 1, 10**11])
def test_a_terminal_of_no_width_or_of_any_ends_nothing(log: EventLog, columns: int) -> None:
    assert analyzer("costs", "--log", str(log.path), columns=columns).returncode == 0


def test_a_forged_log_with_kinds_and_times_that_are_none_ends_no_command(log: EventLog) -> None:
    with duckdb.connect(str(log.path)) as connection:
        connection.execute("UPDATE event SET kind = 'bogus' WHERE seq % 3 = 0")
        connection.execute("UPDATE event SET began = '-infinity'::TIMESTAMP_NS WHERE began IS NOT NULL AND seq % 5 = 0")
    (name,) = log.query("SELECT max(name) FROM image_names")[0]
    assert stories(log, name)
    jobs(log)
