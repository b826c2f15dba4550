"""The figures of a result: what each means, how it adds up, and how tables show it. A new figure is one entry.

Terminal tables, HTML, CSV, JSON, the library's frames, sums over hosts and over parts of a history all derive
from `FIGURES`, in its order. A figure is a field or a property of `analyzer.simulation.result.Result`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

from collector.model.units import format_bytes, format_duration

if TYPE_CHECKING:
    from analyzer.simulation.result import Result


class Unit(StrEnum):
    """What a figure counts."""

    COUNT = "count"
    BYTES = "bytes"
    SECONDS = "seconds"
    SHARE = "share"
    MONEY = "money"


_TEXT: Mapping[Unit, Callable[[Any], str]] = {
    Unit.COUNT: "{:,}".format,
    Unit.BYTES: format_bytes,
    Unit.SECONDS: format_duration,
    Unit.SHARE: "{:.2%}".format,
    Unit.MONEY: "{:,.2f}".format,
}


class Total(Enum):
    """What a figure comes to over several hosts, and over two parts of one history.

    Attributes:
        SUM: the sum of both.
        LEAST: the least.
        MEAN: an average over time: over hosts the sum, over parts weighted by their length.
        SAME: the same everywhere.
        RATE: that at which all together takes as long as its parts.
        NONE: it does not follow from its parts.
        DERIVED: a property, computed from other figures.
    """

    SUM = "sum"
    LEAST = "least"
    MEAN = "mean"
    SAME = "same"
    RATE = "rate"
    NONE = "none"
    DERIVED = "derived"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        meaning: what it says, for the reference.
        unit: what it counts.
        total: what it comes to over hosts and over parts.
        frame: its column in the library's frames, if that is not its name; "": none.
        header: its column in terminal tables; "": none, and none in HTML.
        label: its column in HTML, if that is not the header in lower case.
        legend: the sentence under a terminal table that explains the column; "": none.
        weight: where a terminal is too narrow, the lightest columns go first; None: it never goes.
        grid: its place in tables of many policies (sweeps, recommendations); None: not there.
        bad_if_any: whether anything but zero is marked in HTML.
        shown_if_any: whether HTML leaves the column out where all is zero.
        needs: the figure without which no table shows it.
    """

    meaning: str
    unit: Unit
    total: Total = Total.SUM
    frame: str | None = None
    header: str = ""
    label: str = ""
    legend: str = ""
    weight: int | None = None
    grid: int | None = None
    bad_if_any: bool = False
    shown_if_any: bool = False
    needs: str = ""

    def text(self, value: float) -> str:
        """The value for people."""
        return _TEXT[self.unit](value)


FIGURES: dict[str, Figure] = {
    "uses": Figure("uses that need their image to be there", Unit.COUNT),
    "hits": Figure("of those, how many found it there", Unit.COUNT, frame=""),
    "compulsory": Figure(
        "first pulls ever, which no policy avoids; not part of the re-pulls", Unit.COUNT, frame="compulsory_pulls"
    ),
    "compulsory_bytes": Figure("what first pulls transferred", Unit.BYTES),
    "repulls": Figure("pulls of images that had been removed", Unit.COUNT, header="RE-PULLS", weight=7, grid=4),
    "repulled_bytes": Figure(
        "what re-pulls transferred: the layers that were missing",
        Unit.BYTES,
        header="RE-PULLED",
        label="pulled again",
        legend="bytes pulled again because the image had been removed; first pulls are not counted.",
        grid=1,
    ),
    "repull_seconds": Figure(
        "time that jobs wait for re-pulls, at `pull_rate`",
        Unit.SECONDS,
        Total.DERIVED,
        header="PULL TIME",
        legend="how long jobs wait for re-pulls.",
        weight=3,
    ),
    "failed_jobs": Figure(
        "jobs that fail: for lack of space, or of a removed image that existed only on the host",
        Unit.COUNT,
        Total.DERIVED,
    ),
    "lost_seconds": Figure(
        "what people lose: `repull_seconds`, and 30 minutes for each of the `failed_jobs`",
        Unit.SECONDS,
        Total.DERIVED,
        header="LOST TIME",
        label="lost time",
        legend="what people lose: waiting for re-pulls, and 30 minutes for each job that fails.",
        weight=4,
        grid=8,
    ),
    "repull_cost": Figure(
        "what re-pulls cost at `price_per_gib`",
        Unit.MONEY,
        Total.DERIVED,
        header="COST",
        label="cost of re-pulls",
        legend="what re-pulls cost at the given price.",
        weight=8,
        grid=9,
        needs="price_per_gib",
    ),
    "hit_ratio": Figure(
        "the share of uses that found their image there; 1 without uses",
        Unit.SHARE,
        Total.DERIVED,
        header="HITS",
        weight=2,
    ),
    "disk_full": Figure(
        "incidents: a pull for which there was no space (the job waits, the pull is counted and the image assumed to "
        "be there), or other files that took the last space",
        Unit.COUNT,
        header="FAILED PULLS",
        label="failed pulls",
        legend="pulls that did not fit: each fails a job.",
        grid=2,
        bad_if_any=True,
    ),
    "min_free": Figure(
        "the least free space; negative: how much was lacking",
        Unit.BYTES,
        Total.LEAST,
        frame="min_free_bytes",
        header="MIN FREE",
        label="least free",
        legend="the least free space; negative: so much was short.",
        grid=3,
    ),
    "threshold": Figure(
        "free bytes under which time counts as spent under the threshold",
        Unit.BYTES,
        Total.LEAST,
        frame="threshold_bytes",
    ),
    "seconds_under": Figure(
        "time with less free space than `threshold`",
        Unit.SECONDS,
        frame="under_threshold_seconds",
        header="UNDER",
        label="under threshold",
        legend="time with free space under the policy's threshold; baselines: under the first policy's.",
        weight=6,
        grid=5,
    ),
    "removals": Figure("images removed", Unit.COUNT, header="REMOVED", weight=5, grid=7),
    "removed_bytes": Figure("what their removal freed", Unit.BYTES),
    "emergency_removals": Figure(
        "of the removals, protected images", Unit.COUNT, header="EMERGENCY", weight=1, shown_if_any=True
    ),
    "prunes": Figure("times at which something was removed", Unit.COUNT),
    "losses": Figure(
        "uses of local images that had been removed; no pull brings them back",
        Unit.COUNT,
        header="UNRECOVERABLE",
        legend="uses of removed images that exist only on the host.",
        weight=4,
        bad_if_any=True,
        shown_if_any=True,
    ),
    "mean_held_bytes": Figure(
        "bytes of images held, averaged over time",
        Unit.BYTES,
        Total.MEAN,
        header="MEAN HELD",
        legend="bytes of images kept, on average: what more free space costs.",
        weight=8,
        grid=6,
    ),
    "seconds": Figure("length of the trace", Unit.SECONDS, frame="length_seconds"),
    "price_per_gib": Figure("what transferring 1 GiB costs; 0: not given", Unit.MONEY, Total.SAME, frame=""),
    "pull_rate": Figure("bytes per second at which pulls are taken to run", Unit.BYTES, Total.RATE, frame=""),
    "optimum_least": Figure(
        "no policy that keeps the same space free re-pulls fewer bytes; null unless asked for",
        Unit.BYTES,
        Total.NONE,
        frame="",
    ),
    "optimum_most": Figure(
        "what a policy that knows the future re-pulls; null unless asked for", Unit.BYTES, Total.NONE, frame=""
    ),
}


def in_tables(results: Iterable[Result]) -> dict[str, Figure]:
    """The figures that tables of these results show, by name."""
    known = list(results)
    return {
        name: figure
        for name, figure in FIGURES.items()
        if figure.header and (not figure.needs or any(getattr(result, figure.needs) for result in known))
    }


def in_grids(results: Iterable[Result]) -> dict[str, Figure]:
    """The figures that tables of many policies show, the most important first."""
    shown = in_tables(results)
    ranked = [(figure.grid, name) for name, figure in shown.items() if figure.grid is not None]
    return {name: FIGURES[name] for _, name in sorted(ranked)}


def headers(shown: Mapping[str, Figure]) -> list[str]:
    """The columns of a terminal table."""
    return [figure.header for figure in shown.values()]


def lightest(shown: Mapping[str, Figure]) -> list[str]:
    """The columns that a narrow terminal leaves out, the first of them first."""
    weights = [(figure.weight, figure.header) for figure in shown.values() if figure.weight is not None]
    return [header for _, header in sorted(weights)]


def cells(shown: Mapping[str, Figure], result: Result) -> list[str]:
    """A result's cells in a terminal table."""
    return [figure.text(getattr(result, name)) for name, figure in shown.items()]


def legend(shown: Mapping[str, Figure]) -> dict[str, str]:
    """What the columns mean, by header."""
    return {figure.header: figure.legend for figure in shown.values() if figure.legend}


def over_hosts(results: Sequence[Result]) -> dict[str, Any]:
    """What the fields of several hosts' results come to."""
    found: dict[str, Any] = {}
    for name, total in _stored(results[0]).items():
        values = [getattr(result, name) for result in results]
        if total is Total.SUM or total is Total.MEAN:
            found[name] = sum(values)
        elif total is Total.LEAST:
            found[name] = min(values)
        elif total is Total.NONE:
            found[name] = None
        elif total is Total.RATE and len(set(values)) > 1:
            took = sum(result.repull_seconds for result in results)
            found[name] = sum(result.repulled_bytes for result in results) / took if took else values[0]
    return found


def over_parts(first: Result, rest: Result) -> dict[str, Any]:
    """What the fields of a result on the first part of a history and on the rest come to."""
    both = {name: _weighted(name, first, rest, 1) for name, total in _stored(first).items() if total is Total.MEAN}
    return {**over_hosts([first, rest]), **both}


def less_part(whole: Result, first: Result) -> dict[str, Any]:
    """The fields of a result on the rest of a history, as far as the whole and its first part give them: not minima."""
    found: dict[str, Any] = {}
    for name, total in _stored(whole).items():
        if total is Total.SUM:
            found[name] = getattr(whole, name) - getattr(first, name)
        elif total is Total.MEAN:
            found[name] = _weighted(name, whole, first, -1)
    return found


def _weighted(name: str, one: Result, other: Result, sign: int) -> float:
    lasting = one.seconds + sign * other.seconds
    return float((getattr(one, name) * one.seconds + sign * getattr(other, name) * other.seconds) / lasting)


def _stored(result: Result) -> dict[str, Total]:
    """The figures that are fields: what derives from others follows by itself."""
    key = type(result), len(FIGURES)
    if key not in _STORED:
        names = {item.name for item in fields(result)}
        _STORED[key] = {name: figure.total for name, figure in FIGURES.items() if name in names}
    return _STORED[key]


# Made once: sums over a thousand hosts and hundreds of policies ask for it each time.
_STORED: dict[tuple[type, int], dict[str, Total]] = {}
