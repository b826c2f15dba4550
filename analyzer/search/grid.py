"""Grids of policies: ranges, lists and allowlist sets as written on the command line."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from analyzer.simulation.cleaner import Trigger
from collector.model.errors import UsageError
from collector.model.paths import read_bounded
from collector.model.units import parse_bytes, parse_duration
from pruner.policy.file import policy_from
from pruner.policy.keys import KEYS
from pruner.policy.local_images import LOCAL_IMAGES
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy, compile_entry, format_entries

MOST_POLICIES = 100_000
NO_ALLOWLIST = "none"
DEFAULT_THRESHOLDS = "5%:40%:1%"
# What a search combines, first what is preferred where it makes no difference.
_SEARCHED: Mapping[str, tuple[str, ...]] = {
    "threshold": ("auto", "3%:15%:1%", "20%,25%,30%,40%,50%", "1GB,2GB,5GB,10GB,20GB,50GB"),
    "order": ("forecast,lru,hazard",),
    "min_age": ("auto,5min,10min,1h",),
    "local_images": (",".join(LOCAL_IMAGES),),
}
_DEFAULT = Policy()
TIMER_ONLY = ", by the timer only"
Axes = Mapping[str, Sequence[str] | None]
_DURATIONS = frozenset({"min_age", "allowlist_idle", "interval"})
_PARTS_OF_A_RANGE = 3
_AMOUNT = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|[A-Za-z/]*)\s*")


@dataclass(frozen=True, slots=True)
class AllowlistSet:
    """A named allowlist to try: entries as in the policy file."""

    name: str
    entries: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> AllowlistSet:
        """The set that ``NAME=GLOB,GLOB``, a file of one entry a line, or ``none`` means.

        Raises:
            UsageError: it means none, the file cannot be read, or an entry is impossible.
        """
        if text == NO_ALLOWLIST:
            return cls(NO_ALLOWLIST, ())
        name, given, globs = text.partition("=")
        if given:
            entries = tuple(entry.strip() for entry in globs.split(",") if entry.strip())
        else:
            path = Path(text)
            name, entries = path.stem, _entries_of(path)
        if not name or not entries:
            raise UsageError(f"--allowlist-set: '{text}' names no entries: give NAME=GLOB,GLOB, a file, or none")
        for entry in entries:
            try:
                compile_entry(entry)
            except ValueError as error:
                raise UsageError(f"--allowlist-set {name}: {error}") from None
        return cls(name, entries)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One policy of a grid and what to call it.

    Attributes:
        name: what to call it.
        policy: the policy.
        trigger: what starts a prune; None: whatever the grid is tried with.
    """

    name: str
    policy: Policy
    trigger: Trigger | None = None

    @property
    def departures(self) -> tuple[bool, ...]:
        """What of it is not as it comes, the weightiest first: where all else is equal, that is not chosen."""
        return (
            self.policy.local_images != _DEFAULT.local_images,
            self.trigger is Trigger.TICK,
            self.policy.min_age != _DEFAULT.min_age,
            self.policy.threshold != _DEFAULT.threshold,
        )


def expand(axis: str, texts: Iterable[str]) -> list[str]:
    """All values of one axis: ranges (``5%:40%:1%``, both ends included) and comma lists written out.

    Args:
        axis: the policy's key, such as ``threshold``.
        texts: as given on the command line.

    Raises:
        UsageError: a range is backwards, endless or of different units.
    """
    values = itertools.chain.from_iterable(text.split(",") for text in texts)
    found: dict[str, None] = {}
    for value in values:
        if axis == "order" and value.strip() == "all":
            found.update(dict.fromkeys(ORDERS))
        else:
            found.update(dict.fromkeys(_range(axis, value.strip()) if ":" in value else [value.strip()]))
    return list(found)


def searched(
    axes: Axes,
    sets: Sequence[AllowlistSet] = (),
    base: Policy | None = None,
    trigger: Trigger | None = None,
) -> list[Candidate]:
    """The policies that a search for one tries.

    What is not given is varied: thresholds, and without a base orders, minimum ages and what becomes of local
    images. All of it is combined under the first order; the others differ from it in the threshold alone.

    Args:
        axes: the values of each key, as far as given.
        sets: allowlists to combine with them.
        base: what holds where the axes are silent; None: the built-in policy.
        trigger: what starts a prune; None: try both.

    Raises:
        UsageError: as `grid`.
    """
    open_keys = [key for key in _SEARCHED if not axes.get(key) and (key == "threshold" or base is None)]
    varied = {key: expand(key, _SEARCHED[key]) for key in open_keys}
    values = {**axes, **varied}
    first, *more = expand("order", values.get("order") or ()) or [""]
    lead, _ = grid({**values, "order": [first] if first else []}, sets, base)
    found = [replace(item, trigger=trigger) for item in lead] if trigger else _by_both(lead)
    if more:
        alike = {key: given[:1] for key, given in varied.items() if key in {"min_age", "local_images"}}
        others, _ = grid({**values, **alike, "order": more}, sets, base)
        found += [replace(item, trigger=trigger or Trigger.EVENT) for item in others]
    return found


def _by_both(items: Sequence[Candidate]) -> list[Candidate]:
    return [
        *(replace(item, trigger=Trigger.EVENT) for item in items),
        *(replace(item, name=item.name + TIMER_ONLY, trigger=Trigger.TICK) for item in items),
    ]


def grid(
    axes: Axes,
    sets: Sequence[AllowlistSet] = (),
    base: Policy | None = None,
) -> tuple[list[Candidate], int]:
    """All policies of a grid, and how many combinations contradict themselves and are left out.

    Args:
        axes: the values of each key to combine; None or empty: the base's.
        sets: allowlists to combine with them; none: the base's.
        base: what holds where the axes are silent; None: the built-in policy.

    Raises:
        UsageError: a value is impossible, there are too many policies, or all contradict themselves.
    """
    given = {name: expand(name, values) for name, values in axes.items() if values}
    for name, values in given.items():
        _check_alone(name, values)
    allowlists: list[AllowlistSet | None] = list(sets) or [None]
    count = len(allowlists)
    for values in given.values():
        count *= len(values)
    if count > MOST_POLICIES:
        raise UsageError(f"the grid has {count:,} policies, more than {MOST_POLICIES:,}: take larger steps")
    found: list[Candidate] = []
    refused: UsageError | None = None
    for allowlist, chosen in itertools.product(allowlists, itertools.product(*given.values())):
        try:
            found.append(_candidate(dict(zip(given, chosen, strict=True)), allowlist, base))
        except UsageError as error:
            refused = error
    if not found and refused is not None:
        raise UsageError(f"no policy of the grid is possible: {refused}")
    return found, count - len(found)


def _candidate(values: Mapping[str, Any], allowlist: AllowlistSet | None, base: Policy | None) -> Candidate:
    entries = {} if allowlist is None else {"allowlist": list(allowlist.entries)}
    policy = policy_from({**values, **entries}, "grid", base)
    name = str(policy)
    if allowlist is not None and allowlist.entries:
        count = f"sparing {format_entries(len(allowlist.entries))}"
        name = name.replace(count, f"sparing {allowlist.name}")
    return Candidate(name, policy)


def _check_alone(name: str, values: Sequence[str]) -> None:
    """Refuse values that are impossible by themselves, whatever the rest of the policy says."""
    for value in values:
        try:
            KEYS[name].read(value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{_option(name)}: {error}") from None


def _range(axis: str, text: str) -> list[str]:
    option = _option(axis)
    parts = text.split(":")
    amounts = [match for part in parts if (match := _AMOUNT.fullmatch(part))]
    if not len(amounts) == len(parts) == _PARTS_OF_A_RANGE:
        example = "1h:24h:1h" if axis in _DURATIONS else "5%:40%:1% or 10GB:100GB:10GB"
        raise UsageError(f"{option}: '{text}' is not a range: write START:END:STEP, such as {example}")
    numbers = [Decimal(match["number"]) for match in amounts]
    units = [match["unit"] for match in amounts]
    unit = units[0]
    if len(set(units)) > 1:
        numbers = [_plain(option, axis, part) for part in parts]
        unit = "s" if axis in _DURATIONS else "B"
    start, end, step = numbers
    if step <= 0:
        raise UsageError(f"{option}: range '{text}' never ends: its step must be more than 0")
    if start > end:
        raise UsageError(f"{option}: range '{text}' is empty: it starts over its end")
    if (end - start) / step >= MOST_POLICIES:
        raise UsageError(f"{option}: range '{text}' has more than {MOST_POLICIES:,} values: take a larger step")
    return [f"{start + k * step:f}{unit}" for k in range(int((end - start) / step) + 1)]


def _option(axis: str) -> str:
    return f"--{axis.replace('_', '-')}"


def _plain(option: str, axis: str, part: str) -> Decimal:
    """A range's part of whatever unit as seconds or bytes."""
    try:
        return Decimal(parse_duration(part) if axis in _DURATIONS else parse_bytes(part))
    except ValueError:
        raise UsageError(f"{option}: the parts of a range must be of one unit, not '{part}' beside others") from None


def _entries_of(path: Path) -> tuple[str, ...]:
    try:
        lines = read_bounded(path).splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"--allowlist-set: {path} is not UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"--allowlist-set: {path} cannot be read: {error.strerror}") from None
    stripped = (line.partition("#")[0].strip() for line in lines)
    return tuple(line for line in stripped if line)
