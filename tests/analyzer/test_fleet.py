from __future__ import annotations

import csv
import dataclasses
import io
import json
import pickle
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pytest

from analyzer.search.each import left_out, on_each, plain_error
from analyzer.search.fleet import FLEET, Findings, Simulation, Sweep, fleet_sum
from analyzer.search.grid import grid
from analyzer.search.workers import WORTH_PROCESSES, Workers
from analyzer.trace.load import load_trace
from analyzer.trace.parquet import ParquetLog, export_parquet, parquet_hosts
from analyzer.trace.sources import Source, find
from analyzer.trace.trace import Trace
from collector.eventlog.identity import Identity
from collector.eventlog.log import EventLog
from collector.eventlog.schema import BASE, MIGRATIONS, PROJECTIONS, SCHEMA_VERSION
from collector.model.errors import LogError, UsageError
from collector.model.events import Event, Kind
from pruner.policy.file import policy_from
from tests.analyzer.command import analyzer
from tests.analyzer.test_loading import T0, S, container, observed, sample
from tests.needs import first_fast

ODD_NAME = "ci/runner=1 'ü'.example"


def history(path: Path, host: str, images: Sequence[str] = "ab", rounds: int = 3) -> EventLog:
    """A log in which each image is used in turn, ten minutes apart."""
    log = EventLog(path, host=host)
    events: list[Event] = [sample(0, free=70, image_bytes=0)]
    for k in range(rounds * len(images)):
        image = images[k % len(images)]
        events += [*container(600 * k + 1, 600 * k + 60, image, f"c{k}"), observed(600 * k + 1, image)]
    events.append(sample(600 * rounds * len(images), free=70, image_bytes=0))
    log.append(sorted(events, key=lambda event: event.time_ns))
    return log


@pytest.fixture(scope="module")
def three_hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hosts")
    for name, images in (("one", "ab"), ("two", "abc"), ("three", "abcd")):
        history(place / f"{name}.duckdb", name, images)
    return place


@pytest.fixture
def fleet(tmp_path: Path, three_hosts: Path) -> Path:
    shutil.copytree(three_hosts, tmp_path, dirs_exist_ok=True)
    return tmp_path


def assert_same(one: Trace, other: Trace) -> None:
    for item in dataclasses.fields(Trace):
        a, b = getattr(one, item.name), getattr(other, item.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, item.name


@pytest.mark.slow
def test_two_hosts_of_one_name_stay_two(tmp_path: Path) -> None:
    places = [tmp_path / f"{name}.duckdb" for name in ("east", "west")]
    for place, images in zip(places, ("ab", "abc"), strict=True):
        history(place, "runner", images).claim(Identity("runner", machine=place.stem))
    assert [source.label for source in find(places)] == [f"runner ({place})" for place in places]
    folder = tmp_path / "fleet"
    for place in (*places, *places):  # what is there of the same host is replaced
        export_parquet(EventLog(place), folder)
    first, second = parquet_hosts(folder)
    assert first == "runner"
    assert second.startswith("runner (")
    for source, place in zip(find([folder]), places, strict=True):
        assert source.load().image_ids == load_trace(EventLog(place)).image_ids


def test_an_exported_log_says_the_same_history(mesa_log: EventLog, mesa: Trace, tmp_path: Path) -> None:
    (written,) = export_parquet(mesa_log, tmp_path / "fleet")
    assert written.events == mesa_log.query("SELECT count(*) FROM event")[0][0]
    days = sorted(path.name for path in (tmp_path / "fleet/event/host=mesa-ci-2023").iterdir())
    assert (written.days, days[0], days[-1]) == (len(days), "day=2023-03-01", "day=2024-03-01")
    exported = ParquetLog(tmp_path / "fleet", mesa_log.host)
    assert_same(load_trace(exported, mesa_log.host), mesa)
    jobs = "SELECT count(*), count(DISTINCT job_id) FROM jobs"
    assert exported.query(jobs) == mesa_log.query(jobs)


def test_exporting_again_replaces_that_host_only(fleet: Path) -> None:
    folder = fleet / "parquet"
    for log in sorted(fleet.glob("*.duckdb")):
        export_parquet(EventLog(log), folder)
    assert parquet_hosts(folder) == ["one", "three", "two"]
    (fleet / "one.duckdb").unlink()
    history(fleet / "one.duckdb", "one", "z", rounds=1)
    export_parquet(EventLog(fleet / "one.duckdb"), folder)
    assert parquet_hosts(folder) == ["one", "three", "two"]
    assert load_trace(ParquetLog(folder, "one"), "one").image_ids == ("z",)
    assert sorted(path.name for path in folder.iterdir()) == ["event", "host", "job"]


def test_any_name_of_a_host_survives(tmp_path: Path) -> None:
    log = history(tmp_path / "log.duckdb", ODD_NAME)
    export_parquet(log, tmp_path / "fleet")
    assert parquet_hosts(tmp_path / "fleet") == [ODD_NAME]
    assert_same(load_trace(ParquetLog(tmp_path / "fleet", ODD_NAME), ODD_NAME), load_trace(log))


def test_other_tools_read_the_partitions(fleet: Path) -> None:
    export_parquet(EventLog(fleet / "two.duckdb"), fleet / "parquet")
    found = duckdb.execute(
        "SELECT host, day, count(*) FROM read_parquet(?, hive_partitioning = true) GROUP BY ALL",
        [str(fleet / "parquet/event/*/*/*.parquet")],
    ).fetchall()
    assert [(host, str(day)) for host, day, _ in found] == [("two", "2023-11-14")] or len(found) > 1


def test_every_table_is_exported_or_known_to_be_needless(log: EventLog) -> None:
    log.append([sample(0)])
    tables = {row[0] for row in log.query("SELECT table_name FROM duckdb_tables()")}
    # The image IDs stand in the events; positions say where the collector goes on; settings are the log's own;
    # projections come from the events, or from what a compaction folded, of whose lack a warning says.
    assert tables - {"event", "job", "host"} <= {"image", "schema_version", "position", "setting", *PROJECTIONS, *BASE}


def older(folder: Path, source: EventLog, version: int) -> None:
    """An export as a program of an older schema would have written it."""
    export_parquet(source, folder)
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER NOT NULL)")  # as `migrate` begins
        for statements in MIGRATIONS[:version]:
            connection.execute(statements)
        columns = [row[0] for row in connection.execute("SELECT column_name FROM (DESCRIBE event)").fetchall()]
    kept = ", ".join(name for name in columns if name != "image")
    for path in (folder / "event").rglob("*.parquet"):
        new = path.with_suffix(".new")
        rows = f"SELECT {kept}, image_id, {version} AS schema_version, day FROM '{path}'"
        duckdb.execute(f"COPY ({rows}) TO '{new}' (FORMAT parquet)")
        new.rename(path)
    if version < 3:
        shutil.rmtree(folder / "job")


@pytest.mark.parametrize("version", first_fast(*range(2, SCHEMA_VERSION)))
def test_older_exports_are_brought_forward(tmp_path: Path, version: int) -> None:
    log = history(tmp_path / "log.duckdb", "runner")
    older(tmp_path / "fleet", log, version)
    assert_same(load_trace(ParquetLog(tmp_path / "fleet", "runner"), "runner"), load_trace(log))


def test_newer_and_mixed_exports_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    log = history(tmp_path / "log.duckdb", "runner", rounds=200)
    older(folder, log, 2)
    days = sorted((folder / "event/host=runner").iterdir())
    assert len(days) > 1
    older(tmp_path / "other", log, SCHEMA_VERSION)
    shutil.rmtree(days[0])
    shutil.copytree(tmp_path / "other/event/host=runner" / days[0].name, days[0])
    with pytest.raises(LogError, match=rf"mixes schema versions \(2 and {SCHEMA_VERSION}\): export it again"):
        load_trace(ParquetLog(folder, "runner"), "runner")
    shutil.rmtree(folder)
    older(folder, log, SCHEMA_VERSION + 1)
    with pytest.raises(LogError, match="install the newer docker-hindsight"):
        load_trace(ParquetLog(folder, "runner"), "runner")
    (days[1] / "data_0.parquet").write_text("no Parquet")
    with pytest.raises(LogError, match="of host runner cannot be read"):
        load_trace(ParquetLog(folder, "runner"), "runner")


@pytest.mark.slow
@pytest.mark.parametrize("table", ["event", "job", "host"])
def test_a_copied_file_is_reported_and_counts_nothing_twice(tmp_path: Path, table: str) -> None:
    folder = tmp_path / "fleet"
    export_parquet(history(tmp_path / "log.duckdb", "runner"), folder)
    load_trace(ParquetLog(folder, "runner"), "runner")
    file = next((folder / table).rglob("*.parquet"), None)
    if file is None:  # no job in this log
        file = folder / "job/host=runner/data_0.parquet"
        file.parent.mkdir(parents=True)
        duckdb.execute(f"COPY (SELECT 'runner' AS host, 1 AS job, 'gitlab' AS ci) TO '{file}'")
    shutil.copy(file, file.with_stem("copy"))
    with pytest.raises(LogError, match=f"of host runner in .* has rows of {table} twice: was a file copied\\? export"):
        load_trace(ParquetLog(folder, "runner"), "runner")


@pytest.mark.slow
@pytest.mark.parametrize("explained", [False, True])
def test_a_day_that_is_missing_is_reported_unless_a_gap_explains_it(tmp_path: Path, *, explained: bool) -> None:
    log = history(tmp_path / "log.duckdb", "runner", rounds=200)
    samples = [sample(second, free=70, image_bytes=0) for second in range(300, 240_000, 300)]
    # The second of the three days, and two minutes on either side.
    began, ended = ((T0 // (day := 86400 * S) + number) * day for number in (1, 2))
    gap = Event(ended + 120 * S, Kind.GAP, began_ns=began - 120 * S, attributes={"reason": "off"})
    log.append([*samples, *([gap] if explained else [])])
    export_parquet(log, tmp_path / "fleet")
    exported = ParquetLog(tmp_path / "fleet", "runner")
    assert not any("no disk sample for" in note for note in load_trace(exported, "runner").assumptions)
    shutil.rmtree(sorted((tmp_path / "fleet/event/host=runner").iterdir())[1])
    output = [note for note in load_trace(exported, "runner").assumptions if "no disk sample for" in note]
    assert output == [] if explained else len(output) == 1
    if not explained:
        assert "no disk sample for 1.0 d from 2023-11-14 23:58:20Z on" in output[0]
        shown = analyzer("simulate", "--log", str(tmp_path / "fleet"), "--threshold", "10%")
        assert output[0] in " ".join((shown.stdout + shown.stderr).split())


def test_histories_are_found_by_path_glob_and_folder(fleet: Path) -> None:
    export_parquet(EventLog(fleet / "two.duckdb"), fleet / "parquet")
    assert [source.host for source in find([fleet / "one.duckdb"])] == ["one"]
    assert [source.host for source in find([f"{fleet}/*.duckdb"])] == ["one", "three", "two"]
    assert [source.host for source in find([f"{fleet}/*.duckdb"], "two")] == ["two"]
    both = find([fleet / "parquet", fleet / "two.duckdb"])
    assert [source.label for source in both] == [f"two ({fleet / 'parquet'})", f"two ({fleet / 'two.duckdb'})"]
    with pytest.raises(LogError, match=r"no event log matches .*/nothing-\*"):
        find([f"{fleet}/nothing-*"])
    with pytest.raises(LogError, match="no event log knows host 'four', only one, three, two"):
        find([f"{fleet}/*.duckdb"], "four")
    with pytest.raises(LogError, match="holds no exported log"):
        find([fleet])
    with pytest.raises(LogError, match="no event log at"):
        find([fleet / "four.duckdb"])


def test_a_file_in_the_way_is_named(fleet: Path) -> None:
    with pytest.raises(UsageError, match=r"one\.duckdb is a file: name a folder"):
        export_parquet(EventLog(fleet / "one.duckdb"), fleet / "one.duckdb")


def test_work_and_findings_can_be_sent(fleet: Path) -> None:
    candidates, _ = grid({"threshold": ["10%:30%:10%"]})
    for work in (Simulation((policy_from({}, "test"),), ("never",)), Sweep(tuple(candidates))):
        sent = pickle.loads(pickle.dumps(work))  # noqa: S301
        (source,) = find([fleet / "one.duckdb"])
        found = sent(source.load())
        assert pickle.loads(pickle.dumps(found)) == found == work(source.load())  # noqa: S301


def test_sums_are_of_all_hosts(fleet: Path) -> None:
    candidates, _ = grid({"threshold": ["50%"], "min_age": ["60s"]})
    found, notes = on_each(find([f"{fleet}/*.duckdb"]), Sweep(tuple(candidates)), workers=1)
    assert notes == []
    results = [findings.results[0] for findings in found]
    total = fleet_sum(results)
    assert total.repulled_bytes == sum(result.repulled_bytes for result in results) > 0
    assert total.uses == 6 + 9 + 12
    assert total.hits + total.compulsory + total.repulls + total.losses == total.uses
    assert total.min_free == min(result.min_free for result in results)


@pytest.mark.slow
def test_a_host_without_a_sound_figure_is_left_out_and_named(fleet: Path) -> None:
    EventLog(fleet / "new.duckdb", host="new").append([sample(0), Event(T0 + S, Kind.COLLECTOR_STARTED)])
    work = Simulation((policy_from({}, "test"),))
    found, notes = on_each(find([f"{fleet}/*.duckdb"]), work, workers=1)
    assert [findings.host for findings in found] == ["one", "three", "two"]
    assert notes == [
        "host new is left out: the log holds no images: let the collector take an inventory, or import a job list"
    ]
    with pytest.raises(LogError, match="the log holds no images"):
        on_each(find([fleet / "new.duckdb"]), work, workers=1)


@pytest.mark.parametrize(
    ("error", "said", "shown"),
    [
        (LogError.about("a-1", "", " is new"), "host a-1 is new", "it is new"),
        (LogError.about("a-1", "the log", " is short"), "the log of host a-1 is short", "the log is short"),
        (LogError.about("a-1", "no part", "", quoted=True), "no part of host 'a-1'", "no part"),
        (LogError.about("a-1 (x.duckdb)", "the log", ""), "the log of host a-1 (x.duckdb)", "the log"),
        (LogError.about("a-12", "the log", ""), "the log of host a-12", "the log of host a-12"),
        (UsageError("host a-1 cannot"), "host a-1 cannot", "host a-1 cannot"),
    ],
)
def test_who_is_left_out_is_named_once(error: LogError | UsageError, said: str, shown: str) -> None:
    source = Source(Path("x.duckdb"), "a-1", label="a-1 (x.duckdb)")
    assert str(error) == said
    sent = pickle.loads(pickle.dumps(plain_error(error)))  # noqa: S301 - as it comes from another process
    for one in (error, sent):
        assert left_out(source, one) == f"host a-1 (x.duckdb) is left out: {shown}"
        assert isinstance(one, UsageError) is isinstance(error, UsageError)


@pytest.mark.slow
def test_one_table_per_fleet_whatever_the_number_of_processes(fleet: Path) -> None:
    common = ("--log", f"{fleet}/*.duckdb", "--min-age", "60s", "--threshold", "30%")
    one = analyzer("sweep", *common, "--processes", "1", "--format", "json")
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == analyzer("sweep", *common, "--processes", "2", "--format", "json").stdout
    of_baselines = ("simulate", *common, "--baseline", "docker-gc", "--baseline", "never", "--format", "json")
    assert analyzer(*of_baselines, "--processes", "1").stdout == analyzer(*of_baselines, "--processes", "2").stdout
    data = json.loads(one.stdout)
    assert [host["host"] for host in data["hosts"]] == ["one", "three", "two"]
    assert [row["host"] for row in data["policies"]] == ["one", "three", "two", FLEET]
    rows = list(csv.DictReader(io.StringIO(analyzer("sweep", *common, "--processes", "1", "--format", "csv").stdout)))
    shown = [{name: "" if value is None else str(value) for name, value in row.items()} for row in data["policies"]]
    assert rows == shown
    table = analyzer("simulate", *common, "--processes", "1", "--baseline", "never").stdout
    assert sum(line.startswith(("one ", "two ", "three ", FLEET)) for line in table.splitlines()) == 8


def test_processes_are_started_where_there_is_work_enough_for_them() -> None:
    work = Sweep(tuple(grid({"threshold": ["10%"]})[0]))
    for hosts, program, expected in (
        (WORTH_PROCESSES, True, ProcessPoolExecutor),
        (WORTH_PROCESSES - 1, True, ThreadPoolExecutor),
        (WORTH_PROCESSES, False, ThreadPoolExecutor),  # they would import the program of whoever calls us
    ):
        with Workers(2, is_program=program).pool(work, hosts) as (pool, _):
            assert type(pool) is expected


@pytest.mark.slow
def test_the_export_command_makes_what_the_others_take(fleet: Path) -> None:
    folder = fleet / "parquet"
    for log in sorted(fleet.glob("*.duckdb")):
        done = analyzer("export", "--parquet", str(folder), "--log", str(log))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1].startswith(log.stem)
    common = ("--min-age", "60s", "--format", "json", "--processes", "1")
    exported = analyzer("simulate", "--log", str(folder), *common)
    assert exported.stdout == analyzer("simulate", "--log", f"{fleet}/*.duckdb", *common).stdout
    refused = analyzer("export", "--parquet", str(folder), "--log", str(log), "--only-host", "x")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "knows no host 'x'" in refused.stderr


def test_findings_say_what_they_stand_on(fleet: Path) -> None:
    (source,) = find([fleet / "one.duckdb"])
    found = Simulation((policy_from({}, "test"),))(source.load())
    assert isinstance(found, Findings)
    assert found.heading[0].startswith("6 uses of 2 images in 1 h on host one; disk 100 B")
