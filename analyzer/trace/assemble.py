"""What a log holds, put together as a trace: images numbered, layers, disk states, uses in order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyzer.trace.naming import Naming, bearing, sights
from analyzer.trace.pull_space import pull_space
from analyzer.trace.trace import Flags, Floats, Integers, Trace, demanding
from analyzer.trace.uses import NEVER, LoggedUses, in_order, seconds
from collector.eventlog.hourly import HOUR_NS
from collector.model.defaults import PULL_RATE
from collector.model.errors import LogError, UsageError
from collector.model.traits import Use
from collector.model.units import format_bytes, format_count, format_duration, format_time
from collector.queries.coverage import Coverage
from collector.queries.failures import Failures
from pruner.policy.min_age import MOST_AGE

if TYPE_CHECKING:
    from analyzer.trace.holds import JobHolds
    from analyzer.trace.load import DiskOverride

Columns = dict[str, NDArray[Any]]
_NONE = -1
# This long without a disk sample, and this many times the usual interval, is a hole in the log.
_UNSAMPLED_S = 3600.0
_UNSAMPLED = 12


@dataclass(slots=True)
class LoggedHistory:
    """What the log holds, unconverted: times in UTC nanoseconds, images by the log's own numbers."""

    host: str
    origin: int
    end: int
    unresolved: int
    uses: LoggedUses
    more: LoggedUses
    holds: JobHolds | None
    earliest: Integers
    observed: Columns
    layers: Columns
    disk: Columns
    gaps: Columns
    names: dict[int, list[str]]
    ids: dict[int, str]
    ages: tuple[tuple[int, float], ...]
    failures: Failures
    naming: list[Naming]
    store: str
    pull_rate: float | None
    whole_since: int | None

    def seconds(self, nanoseconds: NDArray[Any]) -> Floats:
        """Seconds after the origin."""
        return seconds(nanoseconds, self.origin)


def assemble(raw: LoggedHistory, override: DiskOverride) -> Trace:
    """The trace of what a log holds. Raises LogError or UsageError, see `analyzer.trace.load.load_trace`."""
    assumptions: list[str] = []
    if raw.unresolved:
        assumptions.append(
            f"{format_count(raw.unresolved, 'event')} without a known image left out: it was gone before an inventory"
        )
    if raw.whole_since is not None:
        assumptions.append(
            f"the history is complete from {format_time(raw.whole_since / 1e9)} on: before, an image counts as in use "
            "between the longest idle times of its days"
        )
    _add_findings(raw)
    _add_holds(raw, assumptions)
    number = _numbering(raw)
    n = int(number.max(initial=-1)) + 1
    if n == 0:
        raise LogError("the log holds no images: let the collector take an inventory, or import a job list")
    image_ids = tuple(raw.ids[int(i)] for i in np.argsort(number, kind="stable")[len(number) - n :])
    references, local, created = _image_facts(raw, number, n)
    if unsure := int(np.count_nonzero(raw.observed["unsure"])):
        assumptions.append(
            f"whether a registry has {format_count(unsure, 'image')} is not known: they count as local (local_images)"
        )
    names: list[tuple[str, ...]] = [()] * n
    for i, known in raw.names.items():
        if number[i] >= 0:
            names[number[i]] = tuple(known)
    first, layer, layer_bytes = _layers(raw, number, n, assumptions)
    _check_sizes(raw, number, first, assumptions)
    disk = _disk(raw, override, layer_bytes, assumptions)
    uses = in_order(raw.uses, raw.more, raw.origin, number)
    blind = np.stack((raw.seconds(raw.gaps["began"]), raw.seconds(raw.gaps["ended"])), axis=1)
    end = (raw.end - raw.origin) / 1e9
    covered = Coverage(0.0, end, tuple(map(tuple, blind.tolist())))
    if override.total is None:
        whole_since = 0.0 if raw.whole_since is None else (raw.whole_since - raw.origin) / 1e9
        assumptions += _unsampled(disk["disk_time"], covered, raw.origin / 1e9, whole_since)
    if len(blind):
        lost = covered.lost(0.0, end)
        assumptions.append(
            f"{format_count(len(blind), 'gap')} not observed, {format_duration(lost)} in all "
            f"({lost / max(end, 1.0):.1%} of the time): after it every image counts as just used (min_age)"
        )
    if raw.pull_rate is not None:
        assumptions.append(
            f"pulls are assumed to be as fast as this host's own: {format_bytes(raw.pull_rate)} per second"
        )
    return Trace(
        host=raw.host,
        origin_ns=raw.origin,
        end=end,
        image_ids=image_ids,
        references=references,
        names=tuple(names),
        local=local,
        created=created,
        first=first,
        layer=layer,
        layer_bytes=layer_bytes,
        **uses,
        **disk,
        blind=blind,
        assumptions=tuple(assumptions),
        min_ages=_min_ages(raw),
        failures=str(raw.failures),
        sight=sights(raw.earliest, created, number),
        bearing=bearing(raw.naming, number, n, raw.origin),
        pull_rate=raw.pull_rate or PULL_RATE,
        pull_space=pull_space(raw.store, first, layer, layer_bytes),
        guesses=_guesses(raw, number),
    )


def _min_ages(raw: LoggedHistory) -> Floats:
    """The values of `min_age = "auto"`, and from when on each holds; the first one holds before the origin, too."""
    steps = [((hour * HOUR_NS - raw.origin) / 1e9, age) for hour, age in raw.ages]
    begun = [age for time, age in steps if time <= 0.0]
    return np.array([(-np.inf, begun[-1] if begun else MOST_AGE), *(step for step in steps if step[0] > 0.0)])


def _add_findings(raw: LoggedHistory) -> None:
    """Add the images that an inventory saw before any use was observed.

    Their last use is not known: as in the pruner, the time the engine stored them counts, else their build time.
    """
    earliest, more = raw.earliest, raw.more
    np.minimum.at(earliest, more.image, more.time)
    seen = raw.observed["time"]
    unexplained = seen < earliest[raw.observed["image"]]
    found, seen = raw.observed["image"][unexplained], seen[unexplained]
    weak = np.where(raw.observed["stored"] > 0, raw.observed["stored"], raw.observed["created"])[unexplained]
    earliest[found] = seen
    raw.more = LoggedUses(
        np.concatenate((more.time, seen)),
        np.concatenate((more.until, np.minimum(weak, seen))),
        np.concatenate((more.image, found)),
        np.concatenate((more.kind, np.full(len(found), int(Use.FOUND), dtype=np.uint8))),
    )


def _add_holds(raw: LoggedHistory, assumptions: list[str]) -> None:
    """Add the images that jobs in flight certainly held."""
    if raw.holds is None:
        return
    more, firm = raw.more, raw.holds.firm
    raw.more = LoggedUses(
        np.concatenate((more.time, firm["time"])),
        np.concatenate((more.until, firm["until"])),
        np.concatenate((more.image, firm["image"])),
        np.concatenate((more.kind, np.full(len(firm["image"]), int(Use.HOLD), dtype=np.uint8))),
    )
    assumptions += raw.holds.notes


def _guesses(raw: LoggedHistory, number: Integers) -> Floats:
    """The images that jobs in flight are guessed to need; see `Trace.guesses`."""
    if raw.holds is None:
        return np.empty((0, 4))
    found = raw.holds.guesses
    times = raw.seconds(found["time"]), raw.seconds(found["until"])
    columns = np.stack((*times, number[found["image"]], found["rank"]), axis=1)
    return columns[columns[:, 2] >= 0]


def _numbering(raw: LoggedHistory) -> Integers:
    """The trace's number of each of the log's images; -1 for those of other hosts.

    By first sight, then build time, then ID: as `pruner.state.inventory.number` does it.
    """
    count = len(raw.earliest)
    created = np.zeros(count, dtype=np.int64)
    created[raw.observed["image"]] = raw.observed["created"]
    ids = np.array([raw.ids.get(i, "") for i in range(count)])
    order = np.lexsort((ids, created, raw.earliest))
    number = np.full(count, _NONE, dtype=np.int64)
    seen = order[: int(np.count_nonzero(raw.earliest != NEVER))]
    number[seen] = np.arange(len(seen))
    return number


def _image_facts(raw: LoggedHistory, number: Integers, n: int) -> tuple[tuple[tuple[str, ...], ...], Flags, Floats]:
    references: list[tuple[str, ...]] = [()] * n
    local = np.zeros(n, dtype=np.bool_)
    created = np.full(n, -raw.origin / 1e9)
    known = number[raw.observed["image"].astype(np.int64)]
    local[known] = raw.observed["local"].astype(np.bool_)
    created[known] = raw.seconds(raw.observed["created"])
    for i, text in zip(known, raw.observed["refs"], strict=True):
        references[i] = tuple(json.loads(text))
    return tuple(references), local, created


def _layers(
    raw: LoggedHistory, number: Integers, n: int, assumptions: list[str]
) -> tuple[Integers, Integers, Integers]:
    """The layers of each image; an image whose layers are unknown gets one of its whole size."""
    rank = np.lexsort((raw.layers["position"], raw.layers["image"]))
    owner = number[raw.layers["image"].astype(np.int64)][rank]
    layer = raw.layers["layer"].astype(np.int64)[rank]
    _, once = np.unique(np.stack((owner, layer)), axis=1, return_index=True)
    rank, owner, layer = rank[np.sort(once)], owner[np.sort(once)], layer[np.sort(once)]
    count = int(layer.max(initial=-1)) + 1
    layer_bytes = np.zeros(count, dtype=np.int64)
    layer_bytes[layer] = raw.layers["bytes"].astype(np.int64)[rank]
    whole = np.zeros(n, dtype=np.int64)
    whole[number[raw.observed["image"].astype(np.int64)]] = raw.observed["size"]
    bare = np.setdiff1d(np.flatnonzero(whole > 0), owner)
    if len(bare):
        assumptions.append(
            f"the layers of {format_count(len(bare), 'image')} are unknown: none is assumed to be shared"
        )
    owner = np.concatenate((owner, bare))
    layer = np.concatenate((layer, count + np.arange(len(bare))))
    by_owner = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[by_owner], np.arange(n + 1))
    return first, layer[by_owner], np.concatenate((layer_bytes, whole[bare]))


def _check_sizes(raw: LoggedHistory, number: Integers, first: Integers, assumptions: list[str]) -> None:
    unknown = np.flatnonzero(first[1:] == first[:-1])
    if not len(unknown):
        return
    if len(unknown) == len(first) - 1:
        raise LogError("the log has no image's size: let the collector take an inventory of this host")
    is_unknown = np.zeros(len(first), dtype=np.bool_)
    is_unknown[unknown] = True
    demands = [(part, demanding(part.kind)) for part in (raw.uses, raw.more)]
    uses = sum(int(np.count_nonzero(is_unknown[number[part.image]] & wanted)) for part, wanted in demands)
    of = format_count(sum(int(np.count_nonzero(wanted)) for _, wanted in demands), "use")
    assumptions.append(
        f"of {format_count(len(unknown), 'image')} ({uses:,} of {of}) no inventory saw the size: "
        "they count as 0 bytes, so bytes are at least what is shown"
    )


def _disk(raw: LoggedHistory, override: DiskOverride, layer_bytes: Integers, assumptions: list[str]) -> Columns:
    """The disk states, the first of them at 0, and with them the inodes of each layer."""
    if not len(raw.disk["time"]) or override.total is not None:
        return _assumed_disk(raw, override, layer_bytes, assumptions)
    known = (raw.disk["free"] >= 0) & (raw.disk["total"] > 0)
    held = raw.disk["held"].astype(np.int64)
    if not np.any(known & (held >= 0)):
        raise LogError(
            "no disk sample says what the engine's images hold, so other usage is unknown: give --disk-size and --other"
        )
    kept = np.flatnonzero(known & (held >= 0))
    if len(kept) < len(held):
        assumptions.append(f"{len(held) - len(kept)} of {len(held)} disk samples are incomplete and left out")
    columns = {name: column[kept].astype(np.int64) for name, column in raw.disk.items()}
    other = columns["total"] - columns["free"] - columns["held"]
    if np.any(other < 0):
        assumptions.append("where images held more than was used of the disk, other usage is taken as 0")
    if override.other is not None:
        _check_room(int(columns["total"].max()), override.other)
        other[:] = override.other
    density = _inodes_per_byte(columns)
    held_inodes = (density * columns["held"]).astype(np.int64)
    time = raw.seconds(columns["time"])
    time[0] = 0.0
    return {
        "disk_time": np.maximum(time, 0.0),
        "disk_total": columns["total"],
        "disk_other": np.maximum(other, 0),
        "inode_total": columns["total_inodes"],
        "inode_other": np.maximum(columns["total_inodes"] - columns["free_inodes"] - held_inodes, 0),
        "layer_inodes": np.floor(density * layer_bytes),
    }


def _unsampled(times: Floats, covered: Coverage, origin: float, whole_since: float) -> Iterator[str]:
    """Notes on long times without a disk sample that no gap explains: part of the log may be missing.

    Before it is complete a compaction has thinned its samples, too; all times in seconds from its beginning.
    """
    edges = np.unique(np.maximum(np.append(times, max(times[-1], covered.last or 0.0)), whole_since))
    if edges[0] == edges[-1]:
        return
    lengths = np.diff(edges)
    limit = max(_UNSAMPLED_S, _UNSAMPLED * float(np.median(lengths)))
    found = []
    for at in np.flatnonzero(lengths > limit):
        unexplained = float(lengths[at]) - covered.lost(float(edges[at]), float(edges[at + 1]))
        if unexplained > limit:
            found.append((unexplained, float(edges[at])))
    if not found:
        return
    longest, began = max(found)
    length = format_duration(longest)
    if len(found) > 1:
        length = f"{format_duration(sum(one for one, _ in found))} in {len(found)} stretches, the longest of {length}"
    yield (
        f"no disk sample for {length} from {format_time(origin + began)} on: other usage is taken as unchanged, and if "
        "a part of the log is missing (a day of an exported folder), so are its uses"
    )


def _inodes_per_byte(disk: Columns) -> float:
    """How many inodes a byte of an image takes, estimated as for all files of the disk; 0 without a limit."""
    limited = disk["total_inodes"] > 0
    used = (disk["total"] - disk["free"])[limited]
    if not np.any(used > 0):
        return 0.0
    return float(np.sum((disk["total_inodes"] - disk["free_inodes"])[limited]) / np.sum(used))


def _check_room(total: int, other: int) -> None:
    """Whether other usage leaves room for images on a disk; both in bytes. Raises UsageError."""
    if other >= total:
        raise UsageError(
            f"a disk of {format_bytes(total)} with {format_bytes(other)} of other usage leaves no room for images: "
            "give less --other, or more --disk-size"
        )


def _assumed_disk(raw: LoggedHistory, override: DiskOverride, layer_bytes: Integers, assumptions: list[str]) -> Columns:
    if override.total is None:
        raise LogError(
            f"the log of host {raw.host} has no disk samples, so free space is unknown: "
            "let the collector sample the disk, or give --disk-size and --other"
        )
    other = override.other or 0
    _check_room(override.total, other)
    assumptions.append("the disk and its other usage are as given on the command line, throughout")
    one = np.ones(1, dtype=np.int64)
    return {
        "disk_time": np.zeros(1),
        "disk_total": one * override.total,
        "disk_other": one * other,
        "inode_total": one * 0,
        "inode_other": one * 0,
        "layer_inodes": np.zeros(len(layer_bytes)),
    }
