from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

import analyzer
from analyzer.search.fleet import FLEET
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay
from collector.eventlog.log import EventLog
from collector.model.errors import LogError, UsageError
from pruner.policy.file import load_policy, to_toml
from tests.analyzer.made_host import make_week
from tests.analyzer.test_fleet import history as make_history
from tools.notebooks import FOLDER, execute, read

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return make_history(tmp_path / "events.duckdb", "runner", "abcab", rounds=20)


@pytest.fixture
def history(log: EventLog) -> analyzer.History:
    opened = analyzer.open_log(log.path)
    assert isinstance(opened, analyzer.History)
    return opened


@pytest.mark.slow
def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, analyzer; print([m for m in ('pandas', 'numpy', 'duckdb', 'altair') if m in sys.modules],"
        " analyzer.open_log.__module__, 'pandas' in sys.modules, hasattr(analyzer, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] analyzer.api.histories True False"


def test_all_that_is_public_is_there_and_documented() -> None:
    page = (ROOT / "docs/library.md").read_text()
    for name in analyzer.__all__:
        assert getattr(analyzer, name).__doc__
        assert re.search(rf"\b{name}\b", page) or name == "Advice", name


def test_the_documents_examples_run(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(log.path.parent)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        exec(compile(block, "docs/library.md", "exec"), names)  # noqa: S102 - our own page
    advice = names["advice"]
    assert isinstance(advice, analyzer.Advice)
    assert advice.holds
    swept = names["swept"]
    assert isinstance(swept, pd.DataFrame)
    assert len(swept) == 16


def test_a_row_is_the_replay_of_its_policy(history: analyzer.History, tmp_path: Path) -> None:
    chosen = analyzer.policy(threshold="30%", min_age="60s", order="lru")
    file = tmp_path / "policy.toml"
    file.write_text(to_toml(chosen))
    assert load_policy(file) == analyzer.policy(file) == analyzer.policy(chosen)
    table = analyzer.simulate(
        history, chosen, file, {"threshold": "30%", "min_age": "60s", "order": "lru"}, baselines=[]
    )
    result = replay(history.trace, PolicyCleaner(chosen, history.trace, trigger=Trigger.EVENT))
    for row in table.itertuples():
        assert (row.repulled_bytes, row.min_free_bytes) == (result.repulled_bytes, result.min_free)
        assert row.under_threshold_seconds == result.seconds_under
    assert set(table["host"]) == {"runner"}


def test_a_fleet_has_a_row_per_host_and_policy_and_the_sums(tmp_path: Path) -> None:
    for name, images in (("one", "ab"), ("two", "abc")):
        make_history(tmp_path / f"{name}.duckdb", name, images)
    fleet = analyzer.open_log(tmp_path / "*.duckdb")
    assert isinstance(fleet, analyzer.Fleet)
    assert [item.host for item in fleet] == ["one", "two"]
    assert fleet["two"].host == "two"
    with pytest.raises(KeyError):
        fleet["three"]
    table = analyzer.simulate(fleet, {"min_age": "60s", "threshold": "40%"}, baselines=["never"], processes=1)
    assert list(table["host"]) == ["one", "one", "two", "two", FLEET, FLEET]
    sums = table[table.host != FLEET].groupby("policy")["repulled_bytes"].sum()
    assert table[table.host == FLEET].set_index("policy")["repulled_bytes"].to_dict() == sums.to_dict()


def test_what_was_recorded_comes_in_utc(history: analyzer.History) -> None:
    uses = analyzer.uses(history)
    assert str(uses["time"].dtype) == "datetime64[ns, UTC]"
    assert uses["time"].iloc[0] == pd.Timestamp("2023-11-14T22:13:21Z")
    images = analyzer.images(history)
    assert images["uses"].sum() == len(uses) == 100
    assert list(images["own_bytes"]) == [20, 20, 20]
    assert list(images["image_bytes"]) == [30, 30, 30]
    assert analyzer.disk(history)["total_bytes"].unique().tolist() == [100]
    assert analyzer.gaps(history).empty


def test_the_least_free_space_is_in_the_curve(history: analyzer.History) -> None:
    chosen = analyzer.policy(threshold="40%", min_age="60s")
    curve = analyzer.free_space(history, chosen, steps=50)
    assert curve["free_bytes"].min() == replay(history.trace, PolicyCleaner(chosen, history.trace)).min_free
    assert len(curve) == 50


@pytest.mark.slow
def test_what_the_figures_stand_on_comes_with_them(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        log = EventLog(tmp_path / f"{name}.duckdb", host=name)
        make_week(log)
        paths.append(log.path)
    one = analyzer.open_log(paths[0])
    (note,) = analyzer.simulate(one, baselines=()).attrs["notes"]
    assert note.startswith("1 gap not observed, 4 h in all")
    assert analyzer.sweep(one, threshold="10%").attrs["notes"] == [note]
    assert analyzer.recommend(one, threshold="10%", baselines=()).table.attrs["notes"]
    both = analyzer.simulate(analyzer.open_log(*paths), baselines=(), processes=1)
    assert both.attrs["notes"] == [f"a: {note}", f"b: {note}"]


@pytest.mark.slow
def test_example_logs_deal_out_all_pipelines(tmp_path: Path) -> None:
    paths = analyzer.example_logs(tmp_path / "logs", hosts=2, disk="60GB", days=3)
    fleet = analyzer.open_log(*paths)
    (whole,) = analyzer.example_logs(tmp_path / "whole", days=3)
    one = analyzer.open_log(whole)
    assert isinstance(one, analyzer.History)
    assert isinstance(fleet, analyzer.Fleet)
    assert sum(len(analyzer.uses(part)) for part in fleet) == len(analyzer.uses(one)) > 100
    assert np.all(analyzer.disk(fleet[0])["total_bytes"] == 60_000_000_000)


def test_faults_are_reported_in_one_line(history: analyzer.History, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no event log matches"):
        analyzer.open_log(tmp_path / "nothing-*")
    with pytest.raises(UsageError, match="disk: 'big' is not a size"):
        analyzer.open_log(history.source.path, disk="big")
    with pytest.raises(UsageError, match="is empty: it starts over its end"):
        analyzer.sweep(history, threshold="40%:5%:1%")
    with pytest.raises(UsageError, match="unknown key 'treshold'"):
        analyzer.policy(treshold="10%")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.stem))
def test_notebooks_are_committed_with_their_plots(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    notebook = read(path)
    pictures = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count, f"{path.name}: run `make notebooks`"
        for output in cell.outputs:
            assert output.output_type != "error"
            if "image/png" in output.get("data", {}):
                pictures += 1
                assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    assert pictures >= 1


def test_there_are_four_notebooks() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


def test_notebooks_show_hostile_names_as_text(tmp_path: Path) -> None:
    hostile = "<img/src=x/onerror=alert(1)>"
    log = make_history(tmp_path / "events.duckdb", hostile, [hostile, "$\\frac{</td><script>"], rounds=20)
    opened = analyzer.open_log(log.path)
    assert isinstance(opened, analyzer.History)
    shown = [
        opened,
        analyzer.Fleet((opened,)),
        analyzer.images(opened),
        analyzer.uses(opened),
        analyzer.simulate(opened, {"allowlist": [hostile]}, baselines=["never"]),
        analyzer.sweep(opened, threshold="10%", allowlists={hostile: [hostile]}),
        analyzer.earn_allowlist(opened, {"threshold": "40%", "min_age": "60s"}, entries=[hostile]),
        analyzer.recommend(opened, least_history="0", threshold="10%", baselines=()),
    ]
    named = 0
    for one in shown:
        formats, _ = DisplayFormatter().format(one)  # type: ignore[no-untyped-call]
        # Of ours is nothing but text; the tables are of pandas, which escapes.
        assert set(formats) <= {"text/plain", "text/html"}
        page = formats.get("text/html", "")
        assert "<img" not in page
        assert "<script" not in page
        named += "&lt;img" in page
    assert named >= 3
    # Nothing in the notebooks switches that off, nor shows anything else than tables and pictures.
    code = "\n".join(cell.source for path in NOTEBOOKS for cell in read(path).cells if cell.cell_type == "code")
    assert not re.search(r"HTML|Markdown|escape|\.style|_repr_|IPython", code)
    assert code.count('alt.renderers.enable("png"') == len(NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: str(path.stem))
def test_notebooks_run_from_top_to_bottom(path: Path) -> None:
    code = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    assert set(re.findall(r"analyzer\.(\w+)", code)) <= set(analyzer.__all__)
    assert not re.search(r"from analyzer|import (collector|pruner)", code)
    shown = [output for cell in execute(path).cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not any(output.output_type == "error" for output in shown)
