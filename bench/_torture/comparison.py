"""The log, compared with an independent record of the engine's events."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench._torture.kills import Killer, said_by
from bench._torture.traffic import Capture, Traffic
from collector.queries.check import check
from pruner.planning.decision import Reason
from tests.engine.host import Host

# Docker's verbs beside the log's kinds: written down once more, as a translation must not judge itself.
_KINDS = {
    ("image", "pull"): "image_pulled",
    ("image", "tag"): "image_tagged",
    ("image", "untag"): "image_untagged",
    ("image", "delete"): "image_deleted",
    ("image", "import"): "image_imported",
    ("container", "create"): "container_created",
    ("container", "start"): "container_started",
    ("container", "die"): "container_died",
    ("container", "destroy"): "container_destroyed",
}
_EXAMPLES = 5
_SAME_NS = 10**9


@dataclass
class Figures:
    """What was counted.

    Attributes:
        facts: counts that may be anything.
        faults: counts that must all be 0.
        examples: some of what is wrong, in words.
    """

    facts: dict[str, float]
    faults: dict[str, int]
    examples: list[str] = field(default_factory=list)

    @property
    def hold(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.faults.values())

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{name}: {value:,}" for name, value in self.facts.items()]
        lines += [f"{name}: {value:,} (must be 0)" for name, value in self.faults.items()]
        return "\n".join([*lines, *self.examples])


@dataclass(frozen=True)
class Removal:
    """Something that went and that no job removed: when (UTC nanoseconds), what it is, what the engine calls it."""

    time_ns: int
    item: str
    key: str


def compare(
    host: Host, capture: Capture, traffic: Traffic, killers: Sequence[Killer], disturbed: Mapping[str, int]
) -> Figures:
    """Hold the log against the capture, once nothing happens any more."""
    stored = _Stored(host)
    output = [event for event in capture.events if (event["Type"], event["Action"]) in _KINDS]
    later = [event for event in output if int(event["timeNano"]) >= stored.began_ns]
    missing = [event for event in later if not stored.holds(event)]
    unsaid = [event for event in missing if not stored.covers(int(event["timeNano"]))]
    removals = list(_removals(capture.events, traffic.removed))
    unplanned = [removal for removal in removals if stored.plan_of(removal) is None]
    unrecorded = [removal for removal in removals if removal not in unplanned and not stored.records(removal)]
    broken = check(host.log)
    said = [said_by(host, killer.name).read_text(errors="replace") for killer in killers]
    # Without an engine, or with a log that nobody can write to, they may.
    odd_ends = sum(len(killer.odd_ends) for killer in killers)
    return Figures(
        {
            **{f"kills of the {killer.name}": killer.killed for killer in killers},
            **{f"disturbances: {name}": count for name, count in disturbed.items()},
            "jobs": traffic.jobs,
            "of them failed": traffic.refused,
            "events captured": len(output),
            "of them before the log began": len(output) - len(later),
            "events lost within a gap": len(missing) - len(unsaid),
            "gaps": len(stored.gaps),
            "seconds of gaps": round(sum(ended - began for began, ended in stored.gaps) / 1e9, 1),
            **({"ended by themselves": odd_ends} if disturbed else {}),
            "prunes": len(stored.plans),
            "of them interrupted": len(stored.interrupted),
            "of them between a removal and its outcome": len(stored.inferred),
            **{f"removals: {item}": count for item, count in sorted(Counter(one.item for one in removals).items())},
        },
        {
            "events lost without a gap": len(unsaid),
            "removals not planned and logged first": len(unplanned),
            "removals whose outcome the log lacks": len(unrecorded),
            "broken invariants of the log": len(broken),
            "tracebacks": sum(text.count("Traceback") for text in said),
            **({} if disturbed else {"ended by themselves": odd_ends}),
        },
        [
            *(f"lost: {json.dumps(event)}" for event in unsaid[:_EXAMPLES]),
            *(f"not planned: {removal}" for removal in unplanned[:_EXAMPLES]),
            *(f"not recorded: {removal}, planned by {stored.plan_of(removal)}" for removal in unrecorded[:_EXAMPLES]),
            *(f"broken: {one.rule}: {one.text}" for one in broken[:_EXAMPLES]),
        ],
    )


def _removals(events: Sequence[dict[str, Any]], by_jobs: set[str]) -> Iterable[Removal]:
    """What went by the pruner: jobs remove no image, and of containers and volumes only their own."""
    own = set[str]()
    made = {
        str(event["Actor"]["ID"]) for event in events if (event["Type"], event["Action"]) == ("container", "create")
    }
    # What the engine gives up of itself, as it has no room for it: a container that never was, right after its volumes.
    given_up = [
        int(event["timeNano"])
        for event in events
        if (event["Type"], event["Action"]) == ("container", "destroy") and event["Actor"]["ID"] not in made
    ]
    for event in events:
        actor, time_ns = str(event["Actor"]["ID"]), int(event["timeNano"])
        match event["Type"], event["Action"]:
            case "image", "delete":
                yield Removal(time_ns, "image", actor)
            case "container", "destroy" if actor not in by_jobs and actor in made:
                yield Removal(time_ns, "container", actor)
            case "volume", "mount" if event["Actor"]["Attributes"].get("container") in by_jobs:
                # `docker rm -v` takes it along.
                own.add(actor)
            case "volume", "destroy" if actor not in own:
                if not any(0 <= moment - time_ns < _SAME_NS for moment in given_up):
                    yield Removal(time_ns, "volume", actor)


class _Stored:
    """The log, read once."""

    def __init__(self, host: Host) -> None:
        query = host.log.query
        rows = query(
            "SELECT kind, coalesce(CAST(attributes ->> '$.own_time_ns' AS BIGINT), epoch_ns(time)), container"
            " FROM event",
            as_recorded=True,
        )
        self._moments = {(kind, time_ns) for kind, time_ns, _ in rows}
        self._containers = {(kind, container) for kind, _, container in rows if container}
        self.gaps = [
            (int(began), int(ended))
            for began, ended in query("SELECT epoch_ns(began), epoch_ns(time) FROM event WHERE kind = 'gap'")
        ]
        # Before the collector was first there, nothing is promised.
        self.began_ns = min(time_ns for kind, time_ns, _ in rows if kind == "collector_started")
        # When each prune had stored its plan, and what it planned to remove.
        self.plans = [
            (int(began), str(prune), set(_planned(json.loads(plan or "{}"))))
            for began, prune, plan in query(
                "SELECT epoch_ns(time), attributes ->> '$.prune', CAST(attributes -> '$.plan' AS VARCHAR)"
                " FROM event WHERE kind = 'prune_started' ORDER BY seq",
                as_recorded=True,  # the pruner's clock is right
            )
        ]
        # Prunes killed after their plan was stored, and those killed between a removal and its outcome.
        self.interrupted = self._prunes(query, "kind = 'prune_finished' AND attributes ->> '$.outcome' = 'interrupted'")
        self.inferred = self._prunes(query, "kind = 'item_removed' AND attributes ->> '$.inferred' = 'true'")
        self._notified = {
            (str(prune), str(item), str(key))
            for prune, item, key in query(
                "SELECT attributes ->> '$.prune', attributes ->> '$.item', coalesce(image_id, container, reference)"
                " FROM events WHERE kind = 'item_removed'"
            )
        }

    @staticmethod
    def _prunes(query: Callable[..., list[Any]], condition: str) -> set[str]:
        sql = f"SELECT DISTINCT attributes ->> '$.prune' FROM events WHERE {condition}"
        return {str(prune) for (prune,) in query(sql)}

    def holds(self, event: Mapping[str, Any]) -> bool:
        """Whether the log has an event; where a listing saw a container before its event came, that stands for it."""
        kind = _KINDS[event["Type"], event["Action"]]
        if (kind, int(event["timeNano"])) in self._moments:
            return True
        return kind in {"container_created", "container_destroyed"} and (kind, event["Actor"]["ID"]) in self._containers

    def covers(self, time_ns: int) -> bool:
        """Whether a gap says that something may be lost then."""
        return any(began <= time_ns <= ended for began, ended in self.gaps)

    def plan_of(self, removal: Removal) -> str | None:
        """The last prune that had planned it and stored that before it happened."""
        found = [
            prune
            for began, prune, planned in self.plans
            if began <= removal.time_ns and (removal.item, removal.key) in planned
        ]
        return found[-1] if found else None

    def records(self, removal: Removal) -> bool:
        """Whether the prune that had planned it says that it is gone."""
        return (str(self.plan_of(removal)), removal.item, removal.key) in self._notified


def _planned(plan: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    # A run that can remove nothing is recorded without a plan.
    for row in plan.get("images", ()):
        if Reason[row["reason"].upper()].evicts:
            yield "image", row["image"]
    for row in plan.get("items", ()):
        if row["reason"] == "expired":
            yield row["item"], row["key"]
