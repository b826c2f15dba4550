"""Proof on the operator's own log: what each recorded prune removed is what its history says must go.

For each recorded prune the log is cut at the moment at which it began, and the decision function is
asked again, by the policy that was recorded, about what the cut log holds. Taken from the record are
the disk as it was measured, what other stages freed before images, and which images jobs in flight
held; images, layers, containers and every last use are the log's.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyzer.audit.cut_log import copy_log, forget_from
from analyzer.audit.recorded_prunes import RecordedPrune, host_that_pruned, is_readable, recorded_prunes
from collector.eventlog.log import EventLog
from collector.eventlog.sql import sql_list
from collector.machine.disk import DiskSample
from collector.model.errors import HindsightError
from collector.model.events import CONTAINERS
from collector.model.units import format_time
from collector.model.untrusted import text
from pruner.planning.decision import Reason
from pruner.planning.plan import Plan, plan
from pruner.planning.stages import ItemReason
from pruner.policy.file import recorded_policy
from pruner.policy.orders import LEARNING_ORDERS
from pruner.policy.policy import Levels, Policy
from pruner.state.inventory import Container, Image, Inventory, image_of, number, read_history, with_habits
from pruner.state.jobs_in_flight import Hold
from pruner.state.learning import Experience, Habits, read_experience
from pruner.state.rates import read_rates
from pruner.state.refusals import Refusal

_SAME_MOMENT_S = 1.0


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """One image at one prune.

    Attributes:
        image: its ID.
        name: what people call it.
        replayed: the reason that the replay gives; None: the log did not know that it was there.
        recorded: the reason that the pruner recorded; None: it did not see the image.
        removed: whether it was removed in fact.
        cause: why replay and fact differ, or why it was kept at the last moment; empty if they simply agree.
        kept: whether the replay has it go as the plan did, and the log says why it was kept at the last moment.
        job: for which job in flight it was held, or went last and so stayed; None: for none.
        asked: whether that job then had a container of it.
    """

    image: str
    name: str
    replayed: str | None
    recorded: str | None
    removed: bool
    cause: str = ""
    kept: bool = False
    job: str | None = None
    asked: bool = False

    @property
    def agrees(self) -> bool:
        """Whether it was removed if, and only if, the replay says so, but for a keep that the log explains."""
        return self.kept or _goes(self.replayed) == self.removed

    def facts(self, *names: str) -> dict[str, Any]:
        """Some of it, by name."""
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class PruneCheck:
    """One recorded prune.

    Attributes:
        prune: its ID in the log.
        started: when it began, UTC seconds.
        trigger: what started it.
        policy: the policy in words.
        images: every image that the pruner or the replay knew.
        skipped: why it cannot be replayed; None: it was.
    """

    prune: str
    started: float
    trigger: str
    policy: str
    images: tuple[ImageCheck, ...] = ()
    skipped: str | None = None

    @property
    def agreement(self) -> float:
        """The share of images on which replay and fact agree; 1 without images."""
        return sum(check.agrees for check in self.images) / len(self.images) if self.images else 1.0

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object; times in UTC seconds."""
        return {
            "prune": self.prune,
            "started": self.started,
            "trigger": self.trigger,
            "policy": self.policy,
            "skipped": self.skipped,
            "images": len(self.images),
            "removed": [check.image for check in self.images if check.removed],
            "agreement": self.agreement if self.skipped is None else None,
            "kept_at_the_last_moment": [check.facts("image", "name", "cause") for check in self.images if check.kept],
            "held_for_jobs": [
                {**check.facts("image", "name", "job"), "asked_for": check.asked}
                for check in self.images
                if check.job is not None
            ],
            "disagreements": [
                check.facts("image", "name", "replayed", "recorded", "removed", "cause")
                for check in self.images
                if not check.agrees
            ],
        }


def agreement(checks: Sequence[PruneCheck]) -> float | None:
    """The share of images, over all prunes that could be replayed; None without any."""
    images = [check for made in checks for check in made.images]
    return sum(check.agrees for check in images) / len(images) if images else None


def verify(log: EventLog, host: str | None = None, last: int | None = None) -> list[PruneCheck]:
    """Replay the recorded history up to each recorded prune.

    Args:
        log: the event log.
        host: whose prunes; None if the log knows only one host that pruned.
        last: how many of the latest prunes; None: all.

    Returns:
        One check a prune, oldest first.

    Raises:
        LogError: the log cannot be read, or holds no prune.
    """
    host = host or host_that_pruned(log)
    recorded = recorded_prunes(log, host, last)
    containers = frozenset(log.query(_JOBS_CONTAINERS, [host]))
    checks = []
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        # The latest first: what is to be forgotten grows, so that one copy serves all.
        cut = EventLog(Path(folder) / "events.duckdb", host=host)
        copy_log(log, cut.path)
        for prune in reversed(recorded):
            forget_from(cut, prune.time_ns)
            checks.append(_check(prune, cut, containers))
    return checks[::-1]


def _check(prune: RecordedPrune, cut: EventLog, containers: frozenset[tuple[str, str]]) -> PruneCheck:
    made = PruneCheck(prune.prune, prune.time_ns / 1e9, prune.trigger, text(prune.policy.get("text")))
    if "images" not in prune.plan:
        return replace(made, skipped="no plan was recorded with it")
    if not is_readable(prune.plan):
        return replace(made, skipped="its recorded plan cannot be read")
    values = prune.policy.get("values")
    if not isinstance(values, dict):
        return replace(made, skipped="its policy was recorded in words only, by an older version")
    try:
        policy = recorded_policy(values)
        replayed = _replay(prune, policy, cut)
    except (HindsightError, ValueError) as error:
        return replace(made, skipped=str(error))
    held = _held(prune, policy, replayed)
    images = [
        replace(check, job=job, asked=(job, check.image) in containers) if job is not None else check
        for check, job in ((check, held.get(check.image)) for check in _compare(prune, replayed))
    ]
    return replace(made, images=tuple(images))


def _held(prune: RecordedPrune, policy: Policy, replayed: Plan) -> dict[str, str]:
    """The images that stayed for a job in flight, with its ID: what is only guessed stays where others suffice."""
    rows = {entry["image"]: entry for entry in prune.plan["images"] if "hold" in entry}
    held = {image for image, entry in rows.items() if entry["reason"] == Reason.HELD.word}
    holds = replayed.inventory.holds
    firm = {image: hold for image, hold in holds.items() if hold.firm}
    if len(firm) < len(holds):
        unguessed = plan(policy, replace(replayed.inventory, holds=firm), levels=replayed.levels)
        going, without = ({one.image.image_id for one in made.evictions} for made in (replayed, unguessed))
        held |= (without - going) & rows.keys()
    return {image: Hold.from_json(rows[image]["hold"]).job for image in held}


def _replay(prune: RecordedPrune, policy: Policy, cut: EventLog) -> Plan:
    """The plan that the cut log leads to."""
    now, facts = prune.time_ns / 1e9, prune.plan
    history = read_history(cut)
    experience = read_experience(cut, now) if policy.order in LEARNING_ORDERS else Experience()
    learned = experience.learned.beside(read_rates(Path(policy.rates))) if policy.rates else experience.learned
    containers = _containers(cut, _gone(facts, "container"))
    images: list[Image] = []
    for image_id in [row[0] for row in cut.query(_PRESENT, [cut.host])]:
        observation = history.observed.get(image_id)
        if observation is None:
            continue
        image = image_of(observation, history.images.get(image_id), containers.get(image_id, ()), now)
        images.append(with_habits(image, experience.habits.get(image_id, Habits())))
    disk = _disk(cut, facts)
    inventory = Inventory(
        images=number(images),
        disk=disk,
        now=now,
        coverage=history.coverage,
        holds={entry["image"]: hold for entry in facts["images"] if (hold := _hold(entry)) is not None},
        learned=learned,
        refusals={("image", entry["image"]): _refusal(entry) for entry in facts["images"] if _is_refused(entry)},
    )
    return plan(policy, inventory, levels=_levels(policy, disk, facts))


def _hold(entry: Mapping[str, Any]) -> Hold | None:
    """For which job the pruner held an image; older versions recorded only that it did."""
    if "hold" in entry:
        return Hold.from_json(entry["hold"])
    return Hold("unknown", 0.0, None, "as recorded", firm=True) if entry["reason"] == Reason.HELD.word else None


def _is_refused(entry: Mapping[str, Any]) -> bool:
    return Reason.REFUSED.word in {entry.get("last"), entry["reason"]}


def _refusal(entry: Mapping[str, Any]) -> Refusal:
    """What the pruner knew of an image that it could not remove before."""
    return Refusal("as recorded", 0.0, in_this_run=entry["reason"] == Reason.REFUSED.word)


def _gone(facts: Mapping[str, Any], kind: str) -> frozenset[str]:
    """Keys of the other items that the recorded plan removes before images."""
    return frozenset(
        item["key"]
        for item in facts.get("items", ())
        if item["item"] == kind and item["reason"] == ItemReason.EXPIRED and not item.get("last")
    )


def _disk(cut: EventLog, facts: Mapping[str, Any]) -> DiskSample:
    """The disk as it was measured, with what stages before the images freed."""
    total_inodes = cut.query(_INODES, [cut.host])
    freed = sum(item["frees"] for item in facts.get("items", ()) if item["reason"] == ItemReason.EXPIRED)
    return DiskSample(
        "recorded",
        int(facts["total_bytes"]),
        int(facts["free_bytes"]) + freed,
        total_inodes[0][0] if total_inodes else 0,
        int(facts["free_inodes"]),
    )


def _levels(policy: Policy, disk: DiskSample, facts: Mapping[str, Any]) -> Levels:
    """The levels as recorded: who gave them on the command line, or per job, is heard."""
    inodes = float(facts.get("threshold_inodes", 0.0))
    threshold, target = float(facts["threshold_bytes"]), float(facts["target_bytes"])
    emergency = threshold, inodes
    if policy.emergency is not None:
        emergency = policy.levels(disk.total_bytes, disk.total_inodes).emergency
    return Levels((threshold, inodes), (target, inodes), emergency)


def _containers(cut: EventLog, gone: frozenset[str]) -> dict[str, list[Container]]:
    """The containers that exist, by image; without those that the prune removed first."""
    found: dict[str, list[Container]] = defaultdict(list)
    for container, image, last, stopped in cut.query(_CONTAINERS, [cut.host]):
        if container not in gone:
            state = {"container_created": "created", "container_died": "exited"}.get(last, "running")
            found[image].append(Container(container, container, image, state, stopped))
    return found


def _compare(prune: RecordedPrune, replayed: Plan) -> Iterator[ImageCheck]:
    """Each image that either knows, those that went first."""
    recorded = {entry["image"]: entry for entry in prune.plan["images"]}
    verdicts = {verdict.image.image_id: verdict for verdict in replayed.verdicts}
    for image in dict.fromkeys([*recorded, *verdicts]):
        entry, verdict = recorded.get(image), verdicts.get(image)
        names = entry["references"] if entry else ()
        check = ImageCheck(
            image,
            next(iter(names), verdict.image.name if verdict else image),
            verdict.reason.word if verdict else None,
            entry["reason"] if entry else None,
            image in prune.removed,
        )
        why = prune.failed.get(image)
        if not check.agrees and why and not check.removed and _goes(check.recorded) and _goes(check.replayed):
            yield replace(check, kept=True, cause=why)
            continue
        known = verdict.image if verdict else None
        yield check if check.agrees else replace(check, cause=_cause(check, prune, entry, known))


def _cause(check: ImageCheck, prune: RecordedPrune, entry: Mapping[str, Any] | None, image: Image | None) -> str:
    """Why an image was removed against the replay, or kept against it."""
    if entry is None:
        return "the log has it as present, the pruner did not see it: its removal was not observed yet"
    if image is None:
        return "the pruner saw it, the log did not know it yet: no inventory had been taken since it came"
    if _goes(check.recorded) != check.removed:
        return prune.failed.get(check.image, "it was planned, and the prune ended before its turn")
    if abs(entry["last_use"] - image.last_use) > _SAME_MOMENT_S:
        return (
            f"last use: {format_time(image.last_use)} ({image.evidence}) by the log, "
            f"{format_time(entry['last_use'])} ({entry['evidence']}) to the pruner"
        )
    return f"the pruner found it {_words(check.recorded)}, the replay {_words(check.replayed)}"


def _goes(reason: str | None) -> bool:
    known = Reason.__members__.get((reason or "").upper())
    return known is not None and known.evicts


def _words(reason: str | None) -> str:
    return (reason or "unknown").replace("_", " ")


# What each job had a container of.
_JOBS_CONTAINERS = """
SELECT DISTINCT job_id, image_id FROM event JOIN job USING (host, job) JOIN image USING (image)
WHERE kind = 'container_created' AND host = ? AND job_id IS NOT NULL
"""
_PRESENT = "SELECT image_id FROM present_images JOIN image USING (image) WHERE host = ?"
_INODES = "SELECT total_inodes FROM disk WHERE host = ? AND total_inodes IS NOT NULL ORDER BY time DESC LIMIT 1"
_CONTAINERS = f"""
SELECT container, image_id, last(kind ORDER BY time, seq),
    epoch_ns(coalesce(max(time) FILTER (kind = 'container_died'), min(time))) / 1e9
FROM event JOIN image USING (image) WHERE host = ? AND container IS NOT NULL
    AND kind IN ({sql_list(CONTAINERS)})
GROUP BY container, image_id HAVING count(*) FILTER (kind = 'container_destroyed') = 0
"""
