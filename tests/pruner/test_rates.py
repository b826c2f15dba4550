"""What a fleet knows of how soon images return, and a new host that starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyzer.search.fleet import unread_rates
from analyzer.simulation.cleaner import PolicyCleaner
from analyzer.simulation.replay import replay
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.log import EventLog
from collector.model.errors import UsageError
from collector.model.traits import Use
from collector.model.units import DAY_S
from pruner.cli import app
from pruner.policy.file import load_policy, policy_from, to_json, to_toml
from pruner.policy.policy import Policy
from pruner.state.inventory import Inventory
from pruner.state.learning import CELLS, Learned, situation
from pruner.state.rates import WORTH_S, read_rates
from pruner.state.rates import to_toml as rates_file
from pruner.state.survey import with_learning
from tests.analyzer.command import analyzer
from tests.analyzer.test_fleet import history
from tests.pruner.test_stages import inventory


def counted(cell: int, returns: float, seconds: float) -> tuple[list[float], list[float]]:
    found = [0.0] * CELLS, [0.0] * CELLS
    found[0][cell], found[1][cell] = returns, seconds
    return found


def test_a_file_counts_as_four_weeks_of_an_average_host(tmp_path: Path) -> None:
    cell = situation(2 * DAY_S, 5, DAY_S, -1.0)
    file = tmp_path / "rates.toml"
    file.write_text(rates_file(*counted(cell, 800.0, 4e6), ["a", "b"], 4 * WORTH_S))
    assert "idle for 1.5 d and more, used 4 times or more, usually idle for about" in file.read_text()
    read = read_rates(file)
    # Two hosts with eight weeks each: of an average one half.
    assert (read.returns[cell], read.exposure[cell]) == (200.0, 1e6)
    file.write_text(rates_file(*counted(cell, 8.0, 4e6), ["a"], WORTH_S / 4))
    assert read_rates(file).returns[cell] == 8.0  # a short past is not more than it is


def test_a_replay_prunes_by_it_too(tmp_path: Path) -> None:
    """Of two images that are used no more, the fleet knows which kind returns: the other goes."""
    # The two share a repository, so that it was used as often for both.
    names = {"a": ("r/a:1", "r/b:0"), "b": ("r/b:1",), "c": ("r/c:1",)}
    images = [ImageFacts([(name, 40)], references=references) for name, references in names.items()]
    uses = [(0.0, 0, 1.0, Use.JOB), (10.0, 1, 11.0, Use.JOB), (1e4, 1, 1e4, Use.JOB), (9e4, 2, 2e5, Use.CONTAINER)]
    trace = make_trace(images, uses, [DiskState(0.0, 120, 0)], end=2e5)
    cells = [situation(9e4, 1, 0.0, -1.0), situation(8e4, 2, 9989.0, -1.0)]
    file = tmp_path / "rates.toml"
    for often, rare in (cells, cells[::-1]):
        returns = [1e6 * (cell == often) for cell in range(CELLS)]
        exposure = [1e9 * (cell in {often, rare}) for cell in range(CELLS)]
        file.write_text(rates_file(returns, exposure, ["a"], WORTH_S))
        policy = policy_from({"threshold": "40 B", "min_age": "0s", "rates": str(file)}, "test")
        results = [replay(trace, PolicyCleaner(policy, trace), reference=reference) for reference in (False, True)]
        assert [list(result.removed) for result in results] == [list(results[0].removed)] * 2
        assert [removal.image for removal in results[0].removed] == [cells.index(rare)]
        trace = replace(trace)  # what is known of a trace is kept


def test_a_file_that_cannot_be_read_is_named_in_a_replay(tmp_path: Path) -> None:
    policy = policy_from({"rates": str(tmp_path / "none.toml")}, "test")
    (note,) = unread_rates([policy, policy, Policy()])
    assert note.endswith("none.toml cannot be read: No such file or directory; only each host's own past counts")


def test_a_new_host_starts_from_it_and_its_own_past_counts_beside(tmp_path: Path) -> None:
    cell = situation(2 * DAY_S, 5, DAY_S, -1.0)
    file = tmp_path / "rates.toml"
    file.write_text(rates_file(*counted(cell, 500.0, 5e6), ["a"], WORTH_S))
    log = history(tmp_path / "log.duckdb", "h")

    def learned(rates: str) -> Inventory:
        return with_learning(inventory([], (), ()), EventLog(log.path, host="h"), policy_from({"rates": rates}, "test"))

    known = learned(str(file)).learned
    assert known.forecast(2 * DAY_S, 1, DAY_S, -1.0, 9) > 1.5 * Learned().forecast(2 * DAY_S, 1, DAY_S, -1.0, 9)
    lost = learned(str(tmp_path / "none.toml"))
    assert lost.warnings[-1].endswith(
        "none.toml cannot be read: No such file or directory; only this host's own past counts"
    )
    assert lost.learned.returns == replace(known, returns=(0.0,) * CELLS).returns


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scale = [", "is not valid TOML"),
        ("scale = [1]", "is of another version"),
        ("{scale}\nhosts = 1\nhost_seconds = 0\nsituations = []", "is damaged"),
        ("{scale}\nhosts = 1\nhost_seconds = 9\nsituations = [[1, 2]]", "is damaged"),
        ("{scale}\nhosts = 1\nhost_seconds = 9\nsituations = [[99999, 2, 3]]", "is damaged"),
        ("{scale}\nhosts = 1\nhost_seconds = 9\nsituations = [[1, -2, 3]]", "is damaged"),
        ("{scale}\nhosts = 1\nhost_seconds = 9\nsituations = [[1, 2, inf]]", "is damaged"),
        ("{scale}\nhosts = 1\nhost_seconds = 9\nsituations = [['1', '2', '3']]", "is damaged"),
        ("{scale}\nhosts = -1\nhost_seconds = 9\nsituations = []", "is damaged"),
    ],
)
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    scale = next(line for line in rates_file(*counted(0, 1, 1), ["a"], 1.0).splitlines() if line.startswith("scale"))
    file, policy = tmp_path / "rates.toml", tmp_path / "policy.toml"
    file.write_text(text.replace("{scale}", scale))
    with pytest.raises(UsageError, match=says):
        read_rates(file)
    policy.write_text(f"rates = '{file}'\n")
    shown = CliRunner().invoke(app, ["check-policy", str(policy)])
    assert (shown.exit_code, shown.stderr.count("\n"), says in shown.stderr) == (2, 1, True)


def test_what_everybody_can_write_decides_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rates.toml"
    file.write_text(rates_file(*counted(0, 1, 1), ["a"], 1.0))
    file.chmod(0o666)
    with pytest.raises(UsageError, match="can be written by everybody: chmod o-w it"):
        read_rates(file)


def test_the_analyzer_writes_what_the_hosts_learned(tmp_path: Path) -> None:
    for name in ("a", "b"):
        history(tmp_path / f"{name}.duckdb", name, "ab", rounds=120)
    file, policy = tmp_path / "rates.toml", tmp_path / "policy.toml"
    done = analyzer("rates", "--log", str(tmp_path / "*.duckdb"), "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert "hosts = 2\n" in file.read_text()
    assert sum(read_rates(file).exposure) > 0
    policy.write_text(f"rates = '{file}'\n")
    chosen = load_policy(policy)
    (tmp_path / "again.toml").write_text(to_toml(chosen))
    assert load_policy(tmp_path / "again.toml") == chosen
    assert to_json(policy_from({}, "test"))["rates"] is None
