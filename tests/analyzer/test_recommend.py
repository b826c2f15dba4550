from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analyzer.search.allowlist import Earning
from analyzer.search.fleet import Findings
from analyzer.search.grid import Candidate, grid, searched
from analyzer.search.proposal import reasons
from analyzer.search.recommend import Constraints, Recommendation, recommend
from analyzer.search.trial import Trial, later, split_time
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import replay
from analyzer.trace.describe import HistoryFacts
from analyzer.trace.trace import Trace
from bench.made import DiskState, ImageFacts, make_trace
from collector.eventlog.log import EventLog
from collector.model.errors import LogError, UsageError
from collector.model.traits import Use
from pruner.policy.file import load_policy, policy_from
from pruner.policy.policy import Policy
from tests.analyzer.command import analyzer
from tests.analyzer.test_fleet import history
from tests.analyzer.test_kernel import policies, traces
from tests.analyzer.test_loading import container, observed, sample
from tests.analyzer.test_search import BASE, workload
from tests.needs import examples

HOUR = 3600.0
_SUMMED = ("uses", "hits", "compulsory_bytes", "repulls", "repulled_bytes", "losses", "removals", "disk_full")


@pytest.mark.parametrize(("allowed", "best"), [(0, "dear"), (5, "cheap")])
def test_a_failed_job_weighs_as_much_as_half_an_hour_of_pulls(allowed: int, best: str) -> None:
    rate = 10**6
    outcomes = {"dear": (0, 5 * 1800 * rate), "cheap": (1, 1800 * rate), "failing": (5, 0)}
    results = [
        replace(BASE, name=name, disk_full=full, repulled_bytes=again, compulsory_bytes=0, pull_rate=rate, min_free=9)
        for name, (full, again) in outcomes.items()
    ]
    candidates = [Candidate(name, Policy()) for name in outcomes]
    made = Findings((), HistoryFacts("h", 0.0, 1.0, 0, 0, 100), tuple(results), headroom=10)
    constraints = Constraints(max_disk_full=allowed)
    found = recommend(candidates, [(made, None)], constraints, 1.0, 1, least_history=0.0)
    assert found.chosen is not None
    assert found.chosen.candidate.name == best
    assert found.chosen.first.lost_seconds == {"dear": 5 * 1800, "cheap": 2 * 1800}[best]


@settings(max_examples=examples(100))
@given(traces(), policies(), st.floats(0.1, 0.9))
def test_both_parts_together_are_the_whole(trace: Trace, policy: Policy, share: float) -> None:
    cut = split_time(trace, share)
    begin = trace.between(0.0, cut)
    assume(begin.demands and begin.end >= policy.interval)
    whole = replay(trace, PolicyCleaner(policy, trace), 10.0, timeline=True, reference=True)
    first = replay(begin, PolicyCleaner(policy, begin), 10.0, reference=True)
    rest = later(whole, first, cut)
    for name in _SUMMED:
        assert 0 <= getattr(rest, name) <= getattr(whole, name), name
    assert min(first.min_free, rest.min_free) == whole.min_free
    kept = [removal for removal in whole.removed if removal.time <= cut]
    assert kept == list(first.removed)
    assert rest.seconds == pytest.approx(trace.end - cut)


def trial(trace: Trace, constraints: Constraints, share: float = 0.7, headroom: int = 0) -> Recommendation:
    candidates, _ = grid({"threshold": ["5%:60%:5%"], "min_age": ["0s"]})
    found = Trial(tuple(candidates), ("never",), share)(trace)
    return recommend(candidates, [found], constraints, share, headroom, least_history=0.0)


def test_the_least_pulling_policy_that_meets_the_constraints_is_chosen() -> None:
    trace = workload(uses=120)
    constraints = Constraints(min_free=15)
    found = trial(trace, constraints)
    assert found.chosen is not None
    assert found.chosen.first.min_free >= 15
    candidates, _ = grid({"threshold": ["5%:60%:5%"], "min_age": ["0s"]})
    begin = trace.between(0.0, split_time(trace, 0.7))
    results = [replay(begin, PolicyCleaner(item.policy, begin, trigger=Trigger.EVENT)) for item in candidates]
    fitting = [result for result in results if result.min_free >= 15]
    assert found.fitting == len(fitting) < found.tried == len(candidates)
    assert found.chosen.first.repulled_bytes == min(result.repulled_bytes for result in fitting)
    assert [first.name for first, _ in found.baselines] == ["never"]
    said = " ".join(reasons(found, constraints, 0.7))
    for word in (found.chosen.candidate.name, "12 policies tried on the first 70%", "runner-up", "never: pulls"):
        assert word in said


@pytest.mark.parametrize(
    ("kept", "headroom", "best", "words"),
    [
        ("abcde", 0, "b", "always leave 10 B free it departs least from the defaults, then keeps the most"),
        ("acde", 0, "a", "always leave 10 B free"),
        ("cf", 0, "c", "None of those that re-pull little more than the least always leaves 10 B free"),
        ("abcf", 5, "c", "re-pull little more than the least it departs least from the defaults"),
        ("de", 0, "d", "always leave 10 B free"),
    ],
)
def test_of_those_that_fit_one_that_leaves_headroom_and_keeps_the_most_is_chosen(
    kept: str, headroom: int, best: str, words: str
) -> None:
    outcomes = {  # re-pulled, least free, held, lost; of first pulls of 1000 bytes on a disk of 100
        "a": (0, 40, 30, 0),
        "b": (9, 12, 60, 0),
        "c": (0, 5, 90, 0),
        "d": (20, 50, 99, 0),
        "e": (0, 50, 99, 1),
        "f": (0, 4, 95, 0),
    }
    results = []
    for name in kept:
        again, free, held, lost = outcomes[name]
        made = replace(BASE, name=name, compulsory_bytes=1000, disk_full=0, repulled_bytes=again, losses=lost)
        results.append(replace(made, min_free=free, mean_held_bytes=held))
    found = Findings((), HistoryFacts("h", 0.0, 1.0, 0, 0, 100), tuple(results), headroom=10)
    candidates = [Candidate(name, policy_from({}, "test")) for name in kept]
    constraints = Constraints(max_losses=1)
    chosen = recommend(candidates, [(found, None)], constraints, 1.0, headroom, least_history=0.0)
    assert chosen.chosen is not None
    assert chosen.chosen.candidate.name == best
    assert words in reasons(chosen, constraints)[1]


def growing() -> Trace:
    """Four small images in turn for a while; then ones that need more free space than those ever did."""
    facts = [ImageFacts(layers=[(f"l{i}", 10 if i < 4 else 35)], references=(f"r/{i}:1",)) for i in range(8)]
    images = [k % 4 if k < 40 else 4 + k % 4 for k in range(80)]
    uses = [(HOUR * (1 + k), image, HOUR * (1 + k) + 60, Use.CONTAINER) for k, image in enumerate(images)]
    return make_trace(facts, uses, [DiskState(0.0, 60, 0)], end=81 * HOUR)


def test_what_was_fitted_to_the_past_is_found_out_on_the_rest() -> None:
    found = trial(growing(), Constraints(), 0.5)
    quiet = found.overruled
    assert quiet is not None
    assert quiet.chosen is not None
    assert quiet.chosen.first.disk_full == 0
    assert quiet.chosen.rest is not None
    assert quiet.chosen.rest.disk_full > 0
    assert "disk-full incidents, more than 0" in quiet.broken[0]
    # So it is chosen on all of the history.
    assert found.chosen is not None
    assert found.chosen.rest is None
    policy = found.chosen.candidate.policy
    whole = replay(growing(), PolicyCleaner(policy, growing(), found.chosen.candidate.name, Trigger.EVENT))
    assert found.chosen.first.disk_full == whole.disk_full == 0
    assert (found.chosen.first.repulled_bytes, found.chosen.first.min_free) == (whole.repulled_bytes, whole.min_free)
    assert found.chosen.first.mean_held_bytes == pytest.approx(whole.mean_held_bytes)
    said = " ".join(reasons(found, Constraints(), 0.5))
    assert f"By the first 50% of the history alone it would have been {quiet.chosen.candidate.name}" in said
    hopeless = trial(growing(), Constraints(min_free=60), 0.5)
    assert hopeless.chosen is None
    roomy = trial(growing(), Constraints(), 0.5, headroom=30)
    assert roomy.chosen is not None
    assert roomy.broken == ()


def test_impossible_constraints_name_what_comes_closest() -> None:
    constraints = Constraints(min_free=99)
    found = trial(workload(), constraints)
    assert (found.chosen, found.fitting) == (None, 0)
    assert found.closest is not None
    (line,) = reasons(found, constraints, 0.7)
    assert line.startswith(
        "none of 12 policies meets the constraints (no disk-full incident, at least 99 B always free"
    )
    assert f"{found.closest.candidate.name} comes closest: down to" in line


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        (Constraints(max_disk_full=1), "2 disk-full incidents, more than 1"),
        (Constraints(2, max_repull=100), "60 B pulled again, more than 50 B"),
        (Constraints(2, min_free=10), "down to -5 B free, less than 10 B"),
        (Constraints(2, max_losses=2), "3 images lost, more than 2"),
    ],
)
def test_what_is_broken_is_said_in_words(constraints: Constraints, words: str) -> None:
    base = trial(workload(), Constraints()).baselines[0][0]
    result = replace(base, disk_full=2, repulled_bytes=60, min_free=-5, losses=3 if constraints.max_losses else 0)
    assert constraints.broken(result, 0.5) == [words]
    assert sum(value > 0 for value in constraints.excess(result, 0.5)) == 1


@pytest.fixture
def long_log(tmp_path: Path) -> EventLog:
    return history(tmp_path / "log.duckdb", "runner", "abcab", rounds=20)


@pytest.mark.slow
def test_the_written_policy_is_one_that_the_pruner_takes(long_log: EventLog, tmp_path: Path) -> None:
    out = tmp_path / "policy.toml"
    chosen = ("--min-age", "60s", "--order", "lru", "--baseline", "never", "--least-history", "0s")
    common = ("recommend", "--log", str(long_log.path), *chosen)
    done = analyzer(*common, "-o", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    policy = load_policy(out)
    assert str(policy) in done.stdout
    assert out.read_text().startswith(f"# {policy}: of 114 policies tried on the first 70% of the history")
    data = json.loads(analyzer(*common, "--format", "json").stdout)
    assert data["policy"]["threshold"] == str(policy.threshold)
    assert data["chosen"]["first"]["disk_full"] == data["chosen"]["rest"]["disk_full"] == 0
    assert len(data["baselines"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("--min-free", "1TB"), 1, "comes closest"),
        (("--split", "1.5"), 2, "--split: '1.5' is not a share"),
        (("--split", "0.00001"), 1, "the first 0.001% of the history of host runner"),
        (("--threshold", "40%:5%:1%"), 2, "is empty"),
        (("--max-repull", "much"), 2, "--max-repull: 'much' is not a size"),
        (("--output", "/nonexistent/policy.toml"), 2, "/nonexistent/policy.toml cannot be written: No such file"),
    ],
)
def test_faults_are_one_line(long_log: EventLog, arguments: tuple[str, ...], status: int, words: str) -> None:
    common = ("--order", "lru", "--min-age", "60s", "--least-history", "0s")
    done = analyzer("recommend", "--log", str(long_log.path), *common, *arguments)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_a_short_history_is_not_enough(long_log: EventLog) -> None:
    done = analyzer("recommend", "--log", str(long_log.path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("analyzer: not enough yet: ")
    assert "until then keep the defaults" in done.stderr


def test_a_history_of_seconds_is_not_enough_either_whatever_the_interval(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.duckdb")
    log.append([sample(0, 70, 0), observed(1, "a"), *container(1, 20, "a", "c"), sample(30, 70, 30)])
    done = analyzer("recommend", "--log", str(log.path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("analyzer: not enough yet: 30 s of history")


def test_where_no_policy_fits_the_working_set_and_the_disk_that_would_do_are_named() -> None:
    """Each day five images of 30 bytes come at once, on a disk of 100."""
    facts = [ImageFacts(layers=[(f"l{i}", 30)], references=(f"r/{i}:1",)) for i in range(5)]
    uses = [
        (24 * HOUR * day + 1.0, i, 24 * HOUR * day + 3 * HOUR, Use.CONTAINER) for day in range(20) for i in range(5)
    ]
    trace = make_trace(facts, uses, [DiskState(0.0, 100, 0)], end=20 * 24 * HOUR)
    found = trial(trace, Constraints())
    assert found.chosen is None
    (line,) = reasons(found, Constraints(), 0.7)
    assert "a usual day's images hold 150 B, more than the 100 B that the disk has for images" in line
    assert line.endswith("a disk of 150 B would be enough on host made")


@pytest.mark.parametrize("other", [0, 5])
def test_a_disk_that_would_do_is_named_however_much_too_small_this_one_is(other: int) -> None:
    """Images of 3 to 30 bytes, most of them at once, on a disk of 1 that other files fill more than completely."""
    facts = [ImageFacts(layers=[(f"l{i}", 3 * (i + 1))], references=(f"r/{i}:1",)) for i in range(10)]
    uses = [(HOUR * (1 + k), k % 10, HOUR * (k + 8), Use.CONTAINER) for k in range(200)]
    trace = make_trace(facts, uses, [DiskState(0.0, 1, other)], end=220 * HOUR)
    candidates, _ = grid({"threshold": ["5%:50%:5%"], "min_age": ["0s"]})
    enough = Trial(tuple(candidates))(trace)[0].enough
    assert enough is not None

    def fits(size: int) -> bool:
        larger = replace(trace, disk_total=trace.disk_total * 0 + size)
        return any(not replay(larger, PolicyCleaner(item.policy, larger)).disk_full for item in candidates)

    assert fits(enough)
    assert not fits(int(enough / 1.3))


@pytest.mark.parametrize(("share", "most"), [(0.6, 0), (0.6, 2), (0.8, 1)])
def test_what_failed_too_often_on_the_first_part_need_not_be_tried_on_the_rest(share: float, most: int) -> None:
    candidates, _ = grid({"threshold": ["1%,5%:60%:5%"], "min_age": ["0s,3h"], "order": ["forecast,lru"]})
    constraints = Constraints(max_disk_full=most)
    whole, part = (Trial(tuple(candidates), ("never",), share, most_full=full)(growing()) for full in (None, most))
    assert whole[1] is not None
    assert part[1] is not None
    assert len(part[1].results) < len(whole[1].results)
    given = (candidates, constraints, share)
    by_all, by_few = (recommend(given[0], [found], given[1], given[2], least_history=0.0) for found in (whole, part))
    assert by_few.chosen == by_all.chosen
    assert (by_few.broken, by_few.choice, by_few.fitting, by_few.baselines) == (
        *(by_all.broken, by_all.choice, by_all.fitting),
        by_all.baselines,
    )
    assert (by_few.overruled is None) == (by_all.overruled is None)


def test_a_working_set_that_exceeds_the_disk_is_named_beside_a_policy_that_fits() -> None:
    """Each day five images of 30 bytes come one after another, on a disk of 100."""
    facts = [ImageFacts(layers=[(f"l{i}", 30)], references=(f"r/{i}:1",)) for i in range(5)]
    uses = [
        (HOUR * (24 * day + 4 * i) + 1.0, i, HOUR * (24 * day + 4 * i) + 60.0, Use.CONTAINER)
        for day in range(20)
        for i in range(5)
    ]
    found = trial(make_trace(facts, uses, [DiskState(0.0, 100, 0)], end=20 * 24 * HOUR), Constraints())
    assert found.chosen is not None
    assert (
        "But on host made a usual day's images hold 150 B, more than the 100 B that the disk has for images: "
        "the working set does not fit."
    ) in reasons(found, Constraints(), 0.7)


@pytest.mark.parametrize(("harder", "order"), [((100, 95), "forecast"), ((100, 80), "lru"), ((0, 0), "forecast")])
def test_orders_that_do_alike_are_kept_apart_by_less_room(harder: tuple[int, int], order: str) -> None:
    results = [
        replace(BASE, name=name, disk_full=0, compulsory_bytes=100, repulled_bytes=0, losses=0, mean_held_bytes=held)
        for name, held in (("forecast", 50), ("lru", 60))
    ]
    facts = HistoryFacts("h", 0.0, 1.0, 0, 0, 100)
    found = Findings((), facts, tuple(results), harder=dict(zip(("forecast", "lru"), harder, strict=True)))
    candidates = [Candidate(name, policy_from({"order": name}, "test")) for name in ("forecast", "lru")]
    chosen = recommend(candidates, [(found, None)], Constraints(), least_history=0.0).chosen
    assert chosen is not None
    assert chosen.candidate.name == order


def test_what_makes_no_difference_stays_as_it_comes() -> None:
    """Minimum ages, triggers and local images are searched, and a default is kept unless something else does better."""
    facts = [ImageFacts(layers=[(f"l{i}", 10)], references=(f"r/{i}:1",), local=i == 0) for i in range(4)]
    uses = [(HOUR * (1 + k), k % 4, HOUR * (1 + k) + 60, Use.CONTAINER) for k in range(400)]
    trace = make_trace(facts, uses, [DiskState(0.0, 100, 0)], end=401 * HOUR)
    candidates = searched({})
    assert {item.trigger for item in candidates} == {Trigger.TICK, Trigger.EVENT}
    assert {item.policy.local_images for item in candidates} == {"superseded", "keep", "evict"}
    assert {item.policy.min_age for item in candidates} == {None, 300.0, 600.0, 3600.0}
    found = recommend(candidates, [Trial(tuple(candidates))(trace)], Constraints())
    assert found.chosen is not None
    assert (found.chosen.candidate.policy, found.chosen.candidate.trigger) == (Policy(), Trigger.EVENT)


def nightly(days: int = 40) -> Trace:
    """A base image used every night, and by day ten others in turn that fill the disk; on one of them nothing rests."""
    facts = [ImageFacts(layers=[("base", 30)], references=("r/base:1",))]
    facts += [ImageFacts(layers=[(f"l{i}", 10)], references=(f"x/y/{i}:1",)) for i in range(10)]
    uses: list[tuple[float, int, float, Use]] = []
    for day in range(days):
        start = 24 * HOUR * day
        uses.append((start + HOUR, 0, start + HOUR + 60, Use.CONTAINER))
        uses += [(start + (8 + k) * HOUR, 1 + k, start + (8 + k) * HOUR + 60, Use.CONTAINER) for k in range(10)]
    return make_trace(facts, uses, [DiskState(0.0, 100, 0)], end=24 * HOUR * days)


def test_an_entry_is_proposed_for_what_it_saves_out_of_sample() -> None:
    policy = policy_from({"threshold": "20%", "min_age": "0s", "allowlist": ["z/*", "x/y/*"]}, "test")
    earned = Earning(policy, share=0.6)(nightly())
    by_glob = {entry.glob: entry for entry in earned.entries}
    assert earned.allowlist
    for glob in earned.allowlist:
        assert by_glob[glob].gain_rest == by_glob[glob].gain > 0
    assert by_glob["z/*"].gain == by_glob["z/*"].gain_first == 0
    assert not by_glob["z/*"].proposed
    without = earned.without[1]
    assert without is not None
    trace = nightly()
    kept = replace(policy, allowlist=earned.allowlist)
    whole = replay(trace, PolicyCleaner(kept, trace)).repulled_bytes
    assert whole < replay(trace, PolicyCleaner(replace(policy, allowlist=()), trace)).repulled_bytes


def test_the_allowlist_command_says_what_each_entry_gains(long_log: EventLog) -> None:
    common = ("allowlist", "--log", str(long_log.path), "--entry", "nobody/*")
    done = analyzer(*common)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gains nothing: leave it out" in done.stdout
    data = json.loads(analyzer(*common, "--format", "json").stdout)
    (entry,) = [item for item in data["entries"] if item["entry"] == "nobody/*"]
    assert (entry["proposed"], entry["gain_first_bytes"], entry["gain_rest_bytes"]) == (False, 0, 0)
    assert "nobody/*" not in data["allowlist"]


def test_a_split_leaves_something_on_both_sides() -> None:
    trace = workload()
    with pytest.raises(UsageError, match="--split: 1 leaves nothing"):
        split_time(trace, 1.0)
    cut = split_time(
        make_trace([ImageFacts([("l", 1)])], [(5.0, 0, 5.0, Use.JOB)], [DiskState(0, 9, 0)], end=10.0), 0.5
    )
    assert 5.0 < cut < 5.1


def test_a_part_in_which_nothing_was_used_is_named_with_the_way_out() -> None:
    """As where the log's latest entry is a year after the last job."""
    disk = [DiskState(0, 9, 0)]
    trace = make_trace([ImageFacts([("l", 1)])], [(5.0, 0, 5.0, Use.JOB)], disk, end=1000.0)
    with pytest.raises(LogError, match=r"the last 30% of the history of host made uses no image: .* --split 1"):
        Trial((Candidate("lru", Policy(interval=1.0)),), share=0.7)(trace)
