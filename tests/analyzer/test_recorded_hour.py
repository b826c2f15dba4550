"""A recorded run of a busy runner, simulated: what is alike, what differs, and why.

`docs/simulation.md` explains each difference. The layers in the recording do not compress.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from analyzer.baselines.base import Baseline
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.host import Host as SimulatedHost
from analyzer.simulation.replay import replay
from analyzer.simulation.result import Result
from analyzer.trace import pull_space
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from collector.engine.translate import Translator
from collector.eventlog.log import EventLog
from collector.job_sources.ingest import store
from collector.model.events import Event, Kind
from pruner.policy.file import policy_from
from tests.analyzer.command import analyzer
from tests.pruner.test_busy import RECORDED, Host, lines, runner_facts

S, MIB = 10**9, 2**20
# From then on nothing is pulled any more, and other hands clean up.
END_S = 700.0
# As it was set there.
POLICY = {
    "threshold": "30%",
    "target": "38%",
    "min_age": "20s",
    "interval": "25s",
    "allowlist": ["127.0.0.1:21695/svc/*"],
}


class Recorded(NamedTuple):
    """What happened: the history, pulls that brought something in as (image, bytes), removals as (time, image)."""

    trace: Trace
    pulls: list[tuple[str, int]]
    removals: list[tuple[float, str]]
    unexplained: list[int]
    log: Path


class AsRecorded(Baseline):
    """Removes what was removed, when it was."""

    name = "as recorded"
    interval = 25.0

    def __init__(self, recorded: Recorded) -> None:
        super().__init__()
        number = {image: k for k, image in enumerate(recorded.trace.image_ids)}
        self._left = [(time, number[image]) for time, image in recorded.removals]

    def waits(self, host: SimulatedHost, until: float, *, use: bool) -> None:  # noqa: ARG002 - the protocol
        while self._left and self._left[0][0] <= until:
            time, image = self._left.pop(0)
            host.now = max(host.now, time)
            if host.held[image]:
                host.remove(image)


class _Disk:
    """What images held, and what was free, along the recording."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts, self.held = facts, set[str]()

    def bytes(self) -> int:
        layers = {name: size for image in self.held for name, size in self.facts["images"][image]["layers"]}
        return sum(layers.values())

    def free(self, time_ns: int) -> int:
        return int(next(free for time, free in reversed(self.facts["free"]) if time * S <= time_ns))

    def sample(self, time_ns: int) -> Event:
        attributes = {"total_bytes": self.facts["total_bytes"], "image_bytes": self.bytes()}
        return Event(time_ns, Kind.DISK_SAMPLED, bytes=self.free(time_ns), attributes=attributes)

    def observed(self, time_ns: int, image: str) -> Event:
        facts = self.facts["images"][image]
        layers = [{"chain_id": name, "diff_id": name, "bytes": size} for name, size in facts["layers"]]
        size = sum(size for _, size in facts["layers"])
        attributes = {
            "references": [facts["name"]],
            "size": size,
            "layers": layers,
            "local": "/local/" in facts["name"],
        }
        return Event(time_ns, Kind.IMAGE_OBSERVED, image=image, attributes=attributes)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    disk = _Disk(json.loads(gzip.decompress((RECORDED / "disk.json.gz").read_bytes())))
    names: dict[str, list[str]] = {}
    for image, facts in disk.facts["images"].items():
        names.setdefault(facts["name"], []).append(image)
    begin = round(disk.facts["free"][0][0] * S)
    events = [json.loads(line) for line in lines("docker-events.jsonl.gz")]
    events = [event for event in events if event["timeNano"] <= begin + END_S * S]
    host = Host(json.loads((RECORDED / "moments.json").read_text())["images"])

    def used_next(place: int, name: str) -> str:
        """The image that a pull brought: of two of one name, the one from which a container was made next."""
        images = names[name]
        made = (event for event in events[place:] if event["Type"] == "container" and event["Action"] == "create")
        return next(
            (one for one in (event["Actor"]["Attributes"]["image"] for event in made) if one in images), images[0]
        )

    first = ("local/toolchain:1", "tools/unused:1")
    disk.held = {image for name, images in names.items() if name.endswith(first) for image in images}
    found = [Event(begin, Kind.COLLECTOR_STARTED, attributes={"store": "overlay2"})]
    found += [*(disk.observed(begin, image) for image in sorted(disk.held)), disk.sample(begin)]
    pulls: list[tuple[str, int]] = []
    removals: list[tuple[float, str]] = []
    unexplained = []
    translator, tick = Translator(host), begin + 25 * S
    for place, event in enumerate(events):
        time_ns = event["timeNano"]
        while tick < time_ns:
            found.append(disk.sample(tick))
            tick += 25 * S
        found += translator.translate(event)
        before = disk.bytes()
        if event["Type"] == "image" and event["Action"] == "pull":
            image = used_next(place, event["Actor"]["ID"])
            if image in disk.held:
                continue
            disk.held.add(image)
            pulls.append((image, disk.bytes() - before))
            found.append(disk.observed(time_ns + 2, image))
        elif event["Type"] == "image" and event["Action"] == "delete":
            disk.held.discard(event["Actor"]["ID"])
            removals.append((time_ns / S, event["Actor"]["ID"]))
        else:
            continue
        found.append(disk.sample(time_ns + S // 2))
        unexplained.append(disk.facts["total_bytes"] - disk.free(time_ns + S // 2) - disk.bytes())
    log = EventLog(tmp_path_factory.mktemp("recorded") / "events.duckdb", host="runner")
    log.append(sorted(found, key=lambda event: event.time_ns))
    store(log, [fact for time, fact in runner_facts() if time * S <= begin + END_S * S], "runner log", 0)
    trace = load_trace(log)
    origin = trace.origin_ns / S
    return Recorded(trace, pulls, [(time - origin, image) for time, image in removals], unexplained, log.path)


def simulated(recorded: Recorded, compressed: float, policy: bool = False) -> Result:
    """The replay where layers compress to a share of their bytes."""
    made = recorded.trace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pull_space, "COMPRESSED", compressed)
        space = pull_space.pull_space("overlay2", made.first, made.layer, made.layer_bytes)
    trace = replace(made, pull_space=space)
    if policy:
        return replay(trace, PolicyCleaner(policy_from(POLICY, "test"), trace, trigger=Trigger.EVENT))
    return replay(trace, AsRecorded(recorded))


@pytest.mark.slow
def test_the_recording_adds_up(recorded: Recorded) -> None:
    """What is used is what images hold and 18 MiB of the engine's own: the simulated disk starts from the real one."""
    assert (len(recorded.pulls), sum(size for _, size in recorded.pulls) // MIB, len(recorded.removals)) == (
        26,
        1334,
        12,
    )
    ordinary = sorted(size // MIB for size in recorded.unexplained)[2:-2]
    assert (ordinary[0], ordinary[-1]) == (16, 19)
    assert recorded.trace.failures.startswith("13 jobs failed on a full disk")
    # The layers came from a registry on the same machine, from two to three jobs at once.
    assert recorded.trace.pull_rate // MIB == 11


@pytest.mark.parametrize(("compressed", "full"), [(0.0, 6), (1.0, 9)])
def test_what_was_removed_then_leaves_the_same_pulls_and_full_disks(
    recorded: Recorded, compressed: float, full: int
) -> None:
    """Three more pulls than in fact, those of images that never came; fewer failures, for none fails twice."""
    found = simulated(recorded, compressed)
    assert (found.compulsory + found.repulls, found.compulsory, found.removals) == (29, 19, 12)
    assert found.disk_full == full
    assert found.min_free < 0


def test_the_policy_with_the_guesses_of_today(recorded: Recorded) -> None:
    """The pruner of that time held what nobody asked for, and removed a quarter as much."""
    found = simulated(recorded, 1.0, policy=True)
    assert (found.disk_full, found.removals, found.repulls) == (0, 46, 35)
    assert found.min_free // MIB == 41


@pytest.mark.slow
def test_a_refusal_to_recommend_states_what_failed(recorded: Recorded) -> None:
    for least, refusal in (("7d", "analyzer: not enough yet: "), ("1min", "analyzer: none of ")):
        done = analyzer("recommend", "--log", str(recorded.log), "--least-history", least, "--order", "lru")
        assert done.stderr.startswith(refusal)
        assert "; recorded: 13 jobs failed on a full disk" in done.stderr
