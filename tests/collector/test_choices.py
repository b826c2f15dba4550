"""Whatever name a user gets wrong, the message suggests the right one, in the same words everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

import analyzer.cli
import collector.cli
import pruner.cli
from collector.eventlog.log import EventLog
from collector.model.choices import did_you_mean, unknown
from collector.model.environment import VARIABLES
from collector.model.events import Event, Kind
from collector.terminal.faults import run

APPS = {"collector": collector.cli.app, "pruner": pruner.cli.app, "analyzer": analyzer.cli.app}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "events.duckdb"
    EventLog(path, host="runner-1").append([Event(10**18, Kind.COLLECTOR_STARTED)])
    return path


def refused(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    program, *rest = words
    monkeypatch.setattr(sys, "argv", [program, *rest])
    with pytest.raises(SystemExit) as ended:
        run(APPS[program], program)
    assert ended.value.code != 0
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("collector staus", "'status'"),
        ("collector monitoring alets", "'alerts'"),
        ("pruner pln", "'plan'"),
        ("analyzer simulat", "'simulate'"),
        ("collector run --metrics-lable x", "'--metrics-file'"),
        ("collector images --Log x", "'--log'"),
        ("analyzer sweep --ordr lru", "'--order'"),
        ("collector images --format jsn", "'json'"),
        ("analyzer costs --by prject", "'project'"),
        ("analyzer simulate --format jsn", "'json'"),
        ("analyzer simulate --threshold 10% --order lur", "'lru' or 'lfu'"),
        ("analyzer simulate --threshold 10% --order LRU", "'lru'"),
        ("analyzer simulate --threshold 10% --trigger evnt", "'event'"),
        ("analyzer simulate --baseline docker-cg", "'docker-gc'"),
        ("analyzer simulate --baseline drone-gc+exat", "'exact'"),
        ("analyzer simulate --threshold 10% --log LOG --only-host runer-1", "'runner-1'"),
        ("analyzer export --parquet FOLDER --log LOG --only-host Runner-1", "'runner-1'"),
        ("pruner import-config docer-gc x", "'docker-gc'"),
        ("pruner plan --order lur", "'lru' or 'lfu'"),
        ("pruner check-policy POLICY", "'containers'"),
    ],
)
def test_each_name_that_is_wrong_gets_a_suggestion(
    command: str,
    meant: str,
    log: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[contaners]\n")
    places = {"LOG": str(log), "FOLDER": str(tmp_path / "out"), "POLICY": str(policy)}
    said = refused([places.get(word, word) for word in command.split()], capsys, monkeypatch)
    assert said.count("\n") == 1
    assert f"; did you mean {meant}?" in said


def test_an_environment_variable_that_is_misspelt_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(lambda: None)
    monkeypatch.setattr(sys, "argv", ["pruner"])
    for name in (*VARIABLES, "DOCKER_HOST", "DOCKER_HINDSIGHT_ZZZZZZZZZZZZZZZZZZZZZZZZZZ"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("DOCKER_HINDSIGT_LGO", "x")
    with pytest.raises(SystemExit):
        run(app, "pruner")
    line = "pruner: the environment variable DOCKER_HINDSIGT_LGO is not read; did you mean 'DOCKER_HINDSIGHT_LOG'?\n"
    assert capsys.readouterr().err == line


def test_a_name_like_none_is_answered_with_all_that_fit_in_a_line() -> None:
    assert did_you_mean("zzz", ["lru", "lfu"]) == ""
    assert unknown("zzz", ["lru", "lfu"]) == "; known are lru, lfu"
    assert unknown("zzz", [f"host-{number}" for number in range(500)]).endswith(", host-39 and 460 more")
