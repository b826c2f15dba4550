from __future__ import annotations

import base64
import html
import itertools
import json
import math
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.baselines import baseline
from analyzer.report import charts, html_page, parts, study
from analyzer.report.downsample import distinct_times, ranges
from analyzer.report.html_page import write_report
from analyzer.report.page_data import Scale
from analyzer.report.parts import ReportError
from analyzer.report.stories import held_at
from analyzer.report.study import AS_RECORDED, Study
from analyzer.search.grid import Candidate
from analyzer.search.proposal import Proposal, propose
from analyzer.search.trial import Trial
from analyzer.search.whatif import WhatIf
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.lifelines import stays
from analyzer.simulation.replay import replay_many
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from collector.eventlog.log import EventLog
from collector.model.errors import LogError
from collector.model.events import Event, Kind
from collector.model.units import format_bytes
from pruner.policy.file import policy_from
from tests.analyzer.command import analyzer
from tests.analyzer.command import analyzer as run
from tests.analyzer.made_host import GIB, HOSTILE, HOUR, IMAGES, PROJECTS, T0, make_week, study_of
from tests.needs import first_fast


def policies(*thresholds: str, **more: str) -> list[Any]:
    return [policy_from({"threshold": level, **more}, "test") for level in thresholds]


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    log = EventLog(tmp_path_factory.mktemp("week") / "events.duckdb", host="runner")
    make_week(log)
    return log


@pytest.fixture(scope="module")
def made(week: EventLog) -> Study:
    return study_of(week, "10%", "20%", "80%")


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(-1000, 1000)), min_size=1, max_size=60), st.integers(1, 40))
def test_intervals_have_the_least_and_the_most_of_a_step_function(steps: list[tuple[int, int]], count: int) -> None:
    ordered = sorted(steps, key=lambda step: step[0])
    time, value = (np.array(column) for column in zip(*ordered, strict=True))
    # Whole numbers of seconds, so that no edge is rounded.
    end = count * 10
    value, time = value[time < end], time[time < end]
    if not len(time):
        return
    least, most = ranges(time.astype(float), value, float(end), count)
    for k in range(count):
        begin, until = k * 10, (k + 1) * 10
        held = value[time <= begin][-1:] if (time <= begin).any() else value[:1]
        expected = np.concatenate((held, value[(time >= begin) & (time < until)]))
        assert (least[k], most[k]) == (expected.min(), expected.max())
    assert (least.min(), most.max()) == (value.min(), value.max())


def test_marks_that_fall_on_one_place_are_one() -> None:
    assert distinct_times(np.array([0.0, 1.0, 2.0, 50.0, 99.0]), 100.0, 10).tolist() == [0.0, 50.0, 99.0]
    assert distinct_times(np.zeros(0), 100.0, 10).tolist() == []


@pytest.mark.parametrize("name", ["never", "docker-gc", "prune-until-local", "kubelet"])
def test_stays_cost_what_the_replay_counted(mesa: Trace, name: str) -> None:
    (result,) = replay_many(mesa, [baseline(name)])
    found = stays(mesa, result.removed)
    assert int(found.pulled[found.again].sum()) == result.repulled_bytes
    assert int(np.count_nonzero(found.again)) == result.repulls
    assert int(found.pulled[~found.again].sum()) == result.compulsory_bytes
    assert np.all(found.end >= found.begin)
    assert np.all((found.last_use >= found.begin) & (found.last_use <= found.end))


def output(text: str) -> str:
    """The text of HTML, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


@pytest.mark.slow
@pytest.mark.parametrize("options", first_fast((), ("--threshold", "10%", "--threshold", "80%"), ("--order", "lfu")))
def test_the_report_recommends_what_recommend_does_in_the_same_words(
    week: EventLog, tmp_path: Path, options: tuple[str, ...]
) -> None:
    asked = ("--log", str(week.path), "--baseline", "none", *options)
    said = run("recommend", *asked, "--format", "json")
    advice = json.loads(said.stdout)
    reported = run("report", *asked, "-o", str(tmp_path / "report.html"), "--format", "json")
    assert reported.returncode == 0
    page = (tmp_path / "report.html").read_text()
    for sentence in advice["why"]:
        assert sentence in output(page)
    figures = json.loads(reported.stdout)
    assert (figures["why"], figures["recommended"]) == (advice["why"], advice["policy"])
    assert figures["meets_constraints"] is (said.returncode == 0)
    shown = {one["name"]: one for one in figures["policies"]}[figures["recommended_name"]]
    both = [advice["chosen"][part]["disk_full"] for part in ("first", "rest")]
    assert shown["disk_full"] == sum(both)
    assert ("recommended" if said.returncode == 0 else "comes closest") in output(page.split('class="tag"')[1][:60])
    (row,) = re.findall(r'<tr class="chosen"[^>]*>.*?</tr>', page)
    least = format_bytes(min(advice["chosen"][part]["min_free"] for part in ("first", "rest")))
    assert least in output(row)


@pytest.mark.slow
def test_where_nothing_fits_the_report_recommends_nothing(week: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert run("report", "--log", str(week.path), "--disk-size", "8GiB", "-o", str(path)).returncode == 0
    page = path.read_text()
    headline = output(page.split('<h1 id="head">')[1].split("</h1>")[0])
    assert re.fullmatch(
        r"Nothing fits this host: (at \d+% free|with the automatic threshold) \d+ pulls would have found the disk "
        r"full; docker-gc-24h: \d+",
        headline,
    )
    assert "Nothing fits; the diamond comes closest." in output(page)
    assert "would have been short at the worst" in output(page)
    assert "recommended" not in page.split('id="data"')[0].split("<body>")[1]
    data = data_of(page)
    assert [row["kind"] for row in data["policies"] if row["chosen"]] == ["comes closest"]
    assert "recommended" not in json.dumps(data["specs"])
    # What was free on another disk says nothing on this one.
    assert AS_RECORDED not in data["series"]
    assert "for the disk is not the recorded one" in output(page)


def test_labels_of_the_trade_off_hide_no_other(made: Study) -> None:
    rows = charts.trade_off(made)
    shown = [row for row in rows if row["from"] == 0]
    assert any(row["chosen"] for row in shown)
    for one, other in itertools.combinations(shown, 2):
        apart = 240 * abs(one["shown"] - other["shown"]) / made.total
        wide = 6 * (len(one["label"]) + len(other["label"])) / 2
        assert apart > wide or one["repulled"] != other["repulled"] or one["side"] != other["side"]
    assert {row["label"] for row in rows if row["kind"] != "baseline"} == {"10%", "20%", "80%"}


def test_an_image_that_a_sentence_names_opens_its_story() -> None:
    hostile = 'a/<b>&"c":1'
    text = f"2 jobs failed, the latest 10:00 ({IMAGES[0]}); {hostile}, {IMAGES[0]}x: not known."
    made = parts.linked(text, {IMAGES[0]: 4, hostile: 7})
    assert re.findall(r'data-story="(\d+)"', made) == ["4", "7"]
    assert "<b>" not in made
    assert made.striptags() == text
    assert str(parts.linked("nothing <is> named", {})) == "nothing &lt;is&gt; named"


def test_where_nothing_is_recommended_the_first_policy_is_followed(made: Study) -> None:
    proposal = Proposal(too_short=True, said=("not enough yet",))
    young = study.study(made.trace, made.results, replace(made.lineup, proposal=proposal), made.recorded)
    first = next(result for result in young.results if not result.baseline)
    assert young.chosen is None
    assert first.name in young.lives
    page = html_page.render(young)
    assert "Why nothing fits" not in page
    assert 'id="find"' in page


def test_of_a_short_history_no_policy_is_recommended(log: EventLog) -> None:
    make_week(log)
    trace = load_trace(log).between(0.0, 2 * 3600.0)
    candidates = [Candidate(str(policy), policy) for policy in policies("10%", "20%")]
    proposal = propose(lambda trial: ([trial(trace)], []), candidates)
    assert (proposal.policy, proposal.too_short) == (None, True)
    assert proposal.said[0].startswith("not enough yet: 2 h of history")
    (note,) = proposal.notes
    assert note.startswith("the recommendation was not judged on a part of the history of its own")


def test_where_nothing_can_be_tried_there_is_no_recommendation() -> None:
    def impossible(_: Trial) -> Any:
        raise LogError("too poor")

    proposal = propose(impossible, [])
    assert (proposal.policy, proposal.said, len(proposal.notes)) == (None, (), 1)


def test_costs_add_up_and_go_by_project(made: Study) -> None:
    kind, costs = study.costs(made)
    assert kind == "project"
    assert {cost.owner for cost in costs} == set(PROJECTS)
    for result in (made.rival, made.chosen):
        assert result is not None
        assert sum(cost.repulled[result.name] for cost in costs) == pytest.approx(result.repulled_bytes)
    assert sum(cost.uses for cost in costs) == pytest.approx(made.trace.demands)


def test_every_line_keeps_its_least_free_space(made: Study) -> None:
    assert made.tried is not None
    scale = Scale.of(made.total)
    for result, line in zip(made.tried.results, made.tried.lines, strict=True):
        drawn = scale.lowest + int(line.min()) * scale.step
        assert drawn == pytest.approx(max(result.min_free, scale.lowest), abs=scale.step)
        assert drawn <= max(result.min_free, scale.lowest)


def unpacked(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def data_of(page: str) -> Any:
    return json.loads(page.split('id="data">')[1].split("</script>", maxsplit=1)[0])


def test_hostile_names_stay_text(made: Study) -> None:
    text = html_page.render(made)
    assert HOSTILE not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert "<img" not in text.split('id="data">')[0]
    data = data_of(text)
    assert HOSTILE in {story["name"] for story in unpacked(data["stories"])}
    # What goes into the page as HTML was escaped before.
    texts = json.dumps(unpacked(data["texts"]))
    assert "<img" not in texts
    assert "<script" not in texts


def test_a_story_says_who_used_an_image_what_its_removal_cost_and_with_whom_it_shares(made: Study) -> None:
    stories = {story["name"]: story for story in unpacked(data_of(html_page.render(made))["stories"])}
    assert set(stories) == set(IMAGES)
    for image in range(made.trace.images):
        story = stories[made.trace.name(image)]
        own = made.trace.image[made.trace.demanded] == image
        assert story["uses"] == int(own.sum())
        assert dict(story["projects"]) == (made.recorded.projects or {})[made.trace.image_ids[image]]
        assert (story["bytes"], story["own"], story["partners"]["count"]) == (7 * GIB, 6 * GIB, len(IMAGES) - 1)
        assert {size for _, _, size in story["partners"]["most"]} == {GIB}
        for name, stay in made.lives.items():
            assert sum(one[4] for one in story["stays"][name]) == int(stay.again[stay.image == image].sum())
    for result in (made.chosen, made.rival):
        assert result is not None
        told_bytes = sum(stay[3] for story in stories.values() for stay in story["stays"][result.name] if stay[4])
        assert told_bytes == result.repulled_bytes


def test_with_a_policy_file_the_other_settings_can_be_switched_too(made: Study) -> None:
    own = policy_from({"threshold": "20%", "order": "lru", "min_age": "6h"}, "a file")
    found = WhatIf.of(made.trace, [own], [Candidate("its own", own)], Proposal())
    assert found is not None
    values = {setting.key: set(setting.values) for setting in found.settings}
    assert values["order"] == {"forecast", "lru", "hazard"}
    assert values["min_age"] == {"auto", "1h", "6h"}
    assert found.candidates[found.place].policy == own


def test_every_setting_has_the_figures_of_a_replay_of_its_own(made: Study) -> None:
    tried = made.tried
    assert tried is not None
    counts = [len(setting.values) for setting in tried.whatif.settings]
    assert len(tried.results) == math.prod(counts)
    assert [setting.key for setting in tried.whatif.settings][-1] == "threshold"
    for item, result in zip(tried.whatif.candidates, tried.results, strict=True):
        cleaner = PolicyCleaner(item.policy, made.trace, item.name, item.trigger or Trigger.EVENT)
        (alone,) = replay_many(made.trace, [cleaner])
        assert alone.to_json() == result.to_json()
    assert tried.whatif.candidates[tried.whatif.place].policy == made.lineup.proposal.policy


@pytest.mark.slow
def test_neighbours_that_cost_the_same_are_folded(week: EventLog) -> None:
    page = html_page.render(study_of(week, *(f"{share}%" for share in range(5, 75, 5))))
    table = page.split('id="t-policies"')[1].split("</table>")[0]
    opened = [int(opens) for opens in re.findall(r'data-opens="(\d+)"', table)]
    assert min(opened) >= 3
    assert len(re.findall("<tr[^>]* hidden", table)) == sum(opened)
    assert 'class="chosen" data-run' in table
    assert not re.search('<tr class="chosen"[^>]* hidden', table)


@pytest.mark.slow
def test_the_first_week_begins_with_what_the_host_held(log: EventLog) -> None:
    log.append([Event(T0 - 1, Kind.COLLECTOR_STARTED, attributes={"version": "1"})])
    make_week(log)
    log.append([Event(T0 + 30 * HOUR * 10**9, Kind.IMAGE_DELETED, image=f"sha256:{1:064x}")])
    made = study_of(log, "10%", "20%", "80%")
    presence, week = made.recorded.presence, made.week
    assert presence is not None
    assert made.known_week
    assert held_at(presence, 20 * HOUR, made.trace.images)[1]
    assert not held_at(presence, 40 * HOUR, made.trace.images)[1]
    assert week is not None
    assert len(week.removed) == week.result.removals
    assert week.result.removed_bytes == int(week.removed.freed.sum())
    page = output(html_page.render(made))
    assert "What changes if you adopt this" in page
    assert f"{week.result.removals:,}images removed" in page
    assert "held when it began" in page


def test_the_file_names_no_address_to_load_from(made: Study) -> None:
    page = html_page.render(made).split('id="data">')[0]
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert "default-src 'none'" in page


def test_the_headline_says_both_costs(made: Study) -> None:
    page = html_page.render(made)
    headline = re.sub(r"<[^>]+>", "", page.split('<h1 id="head">')[1].split("</h1>")[0])
    assert re.fullmatch(r"At \d+% free this host would have re-pulled .+ in 7\.0 d; docker-gc-24h .+", headline)


def test_what_cannot_be_written_is_reported_in_one_line(made: Study, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="the report cannot be written to"):
        write_report(made, tmp_path / "missing" / "report.html")


@pytest.mark.slow
def test_report_command_writes_the_file_and_says_where(week: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    done = analyzer("report", "--log", str(week.path), "-o", str(path), "--threshold", "10%", "--baseline", "none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"report: {path}\n")
    assert path.stat().st_size < 2_000_000
    failed = analyzer("report", "--log", str(week.path), "-o", str(tmp_path / "no" / "out.html"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("analyzer: the report cannot be written to")


@pytest.mark.slow
def test_a_fleets_report_says_what_simulate_says(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_week(EventLog(tmp_path / f"{name}.duckdb", host=name))
    EventLog(tmp_path / "idle.duckdb", host="idle").append([Event(T0, Kind.DISK_SAMPLED, bytes=1)])
    asked = ("--log", str(tmp_path / "*.duckdb"), "--threshold", "20%", "--threshold", "80%", "--processes", "2")
    output = json.loads(run("simulate", *asked, "--format", "json").stdout)
    done = run("report", *asked, "--classes", "2", "-o", str(tmp_path / "report.html"), "--format", "json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert len(figures["hosts"]) == 2
    page = (tmp_path / "report.html").read_text()
    rows = [
        (row["host"], row["repulls"], row["repulled_bytes"], row["disk_full"], row["min_free"])
        for row in output["policies"]
    ]
    shown = []
    for section in ("h-policies", "h-sums"):
        table = page.split(f'aria-labelledby="{section}"')[1].split("<tbody>")[1].split("</tbody>")[0]
        for row in table.split("<tr")[1:]:
            host = re.findall(r'<th scope="row">(.*?)</th>', row)[0]
            values = [float(value) for value in re.findall(r'data-value="([^"]+)"', row)]
            full, repulled, least, repulls = values[:4]
            shown.append((host, repulls, repulled, full, least))
    assert shown == rows
    columns = ("host", "repulls", "repulled_bytes", "disk_full", "min_free")
    assert [tuple(row[column] for column in columns) for row in figures["policies"]] == rows
    (note,) = output["notes"]
    assert note in figures["notes"]
    assert f"<li>{note}</li>" in page
    assert '<h2 id="h-classes">Classes of hosts</h2>' in page


@pytest.mark.slow
def test_one_host_of_several_has_the_whole_report(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_week(EventLog(tmp_path / f"{name}.duckdb", host=name))
    assert run("export", "--log", str(tmp_path / "one.duckdb"), "--parquet", str(tmp_path / "fleet")).returncode == 0
    for place in (tmp_path / "*.duckdb", tmp_path / "fleet"):
        done = run(
            "report", "--log", str(place), "--only-host", "one", "--threshold", "20%", "-o", str(tmp_path / "r.html")
        )
        assert done.returncode == 0, done.stderr
        assert 'id="chart-free"' in (tmp_path / "r.html").read_text()


def test_whatever_a_template_is_given_is_escaped() -> None:
    hostile = "\"'><script>alert(1)</script>/a:b"
    cells = [parts.Cell(hostile, head=True, style=style, tag=hostile) for style in ("", "name")]
    table = parts.Table(hostile, [hostile, "policy"], [parts.Row(cells)])
    macros = parts.environment().get_template("macros.html").module
    made = str(macros.table(table)) + str(macros.section("h-notes", hostile, [hostile]))  # type: ignore[attr-defined]
    assert "<script" not in made
    assert made.count("alert(1)") == 9
    assert "&#34;&#39;&gt;&lt;script&gt;" in made
    assert "href" not in made
