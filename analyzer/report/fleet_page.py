"""The report on several hosts: the same page, with a row for each host and policy and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyzer.report import charts as report_charts
from analyzer.report import parts
from analyzer.report.heat_map import heat_map
from analyzer.report.study import Compared, Lineup
from analyzer.report.terminal import short_names
from analyzer.search.classes import Division, fits
from analyzer.search.fleet import FLEET, Findings, fleet_sum, fleet_sums
from analyzer.simulation.figures import FIGURES
from analyzer.simulation.result import Result
from analyzer.trace.daily import DailyFree
from analyzer.trace.describe import HistoryFacts
from collector.model.units import DAY_S, format_bytes, format_time

_MOST_CHARTS = 24
# Of more hosts than this, not every policy is shown on each.
_MOST_IN_FULL = 100
_MOST_NAMED = 40
_MOST_NOTES = 100
_LEAST_CLASSES = 2
_MOST_OF_CLASS = 12
_OF_CLASS = {name: FIGURES[name] for name in ("disk_full", "repulled_bytes", "min_free", "removals")}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHost(Compared):
    """What was found on one host; chosen is the policy recommended for all hosts.

    Attributes:
        name: the host's name.
        facts: what it stands on.
        free: the least free space of each day under the chosen policy; None: unknown.
    """

    name: str
    facts: HistoryFacts
    free: DailyFree | None = None


@dataclass(frozen=True, slots=True)
class FleetStudy:
    """What was found on all hosts.

    Attributes:
        hosts: by host.
        lineup: our policies.
        sums: for each policy that every host has a result of.
        chosen: the sum of the recommended policy; None: no policy was simulated.
        rival: the sum of the baselines, to compare with; None: nothing to compare with.
        notes: hosts that are left out, and why.
        common: clauses that all policies share, which their names leave out.
        division: classes of hosts, if they were asked for.
    """

    hosts: tuple[OnHost, ...]
    lineup: Lineup
    sums: tuple[Result, ...]
    chosen: Result | None
    rival: Result | None
    notes: tuple[str, ...]
    common: tuple[str, ...]
    division: Division | None = None


def fleet_study(
    found: Sequence[Findings], lineup: Lineup, notes: Sequence[str] = (), division: Division | None = None
) -> FleetStudy:
    """What a report on several hosts shows.

    Args:
        found: what was found on each host, at least one: baselines, then one for each policy of the line-up.
        lineup: our policies.
        notes: hosts that are left out, and why.
        division: classes of hosts, whose policies are all in the line-up.
    """
    full = list(dict.fromkeys(result.name for findings in found for result in findings.results))
    names, common = short_names(full)
    if len(set(names)) < len(names):
        names, common = full, []
    known = dict(zip(full, names, strict=True))
    named = [tuple(replace(result, name=known[result.name]) for result in findings.results) for findings in found]
    sums = fleet_sums(named)
    on_first = lineup.chosen(named[0])
    chosen = next((result for result in sums if on_first is not None and result.name == on_first.name), None)
    rival = next((result for result in sums if result.baseline and result.removals), None)
    hosts = tuple(
        OnHost(
            results=results,
            chosen=lineup.chosen(results),
            lineup=lineup,
            total=findings.facts.disk_total_bytes,
            name=findings.host,
            facts=findings.facts,
            free=findings.free,
        )
        for findings, results in zip(found, named, strict=True)
    )
    said = (*notes, *lineup.proposal.notes)
    return FleetStudy(hosts, lineup, tuple(sums), chosen, rival, said, tuple(common), division)


def write_fleet_report(made: FleetStudy, path: Path) -> None:
    """Write the report on a fleet. Raises ReportError."""
    parts.write(render_fleet(made), path)


def render_fleet(made: FleetStudy) -> str:
    """The report as HTML. What comes from the logs is escaped wherever it stands."""
    shown, tight = _charted(made), _tightest_first(made)
    heat = heat_map([host.free for host in tight if host.free is not None])
    ours = [host for host in made.hosts if host.chosen is not None]
    return parts.page(
        "fleet.html",
        _data(shown),
        made=made,
        uses=sum(host.facts.uses for host in made.hosts),
        begin=format_time(min(host.facts.begin for host in made.hosts)),
        end=format_time(max(host.facts.end for host in made.hosts)),
        total=sum(host.total for host in made.hosts),
        full=_some([host.name for host in ours if host.chosen is not None and host.chosen.disk_full]),
        tightest=min(ours, key=lambda host: _figure(host, "min_free") / host.total, default=None),
        heaviest=max(ours, key=lambda host: _figure(host, "repulled_bytes"), default=None),
        charted=shown,
        rest=len(made.hosts) - len(shown),
        sums=_table("Sums over all hosts", made, [(FLEET, made.sums)]),
        policies=_table("Hosts and policies", made, [(host.name, _shown(made, host)) for host in made.hosts]),
        few=len(made.hosts) > _MOST_IN_FULL,
        hosts_table=_hosts(made),
        classes=_by_disk(made) if made.division is None else _classes(made, made.division),
        why_classes=[] if made.division is None else _why_classes(made.division),
        heat=heat,
        heat_days=None if heat is None else [format_time(day * DAY_S)[:10] for day in (heat.first, heat.last)],
        heat_names=[host.name for host in tight] if len(tight) <= _MOST_NAMED else [],
        assumptions=_assumptions(made),
    )


def _tightest_first(made: FleetStudy) -> list[OnHost]:
    """The hosts whose free space is known, those that had the least first."""
    known = [host for host in made.hosts if host.free is not None]
    return sorted(known, key=lambda host: (_tightness(host), host.name))


def _tightness(host: OnHost) -> tuple[list[int], int]:
    """How little was free in the worst week of days, then on all."""
    shares = b"" if host.free is None else host.free.shares
    return sorted(shares)[:7], sum(shares)


def _shown(made: FleetStudy, host: OnHost) -> Sequence[Result]:
    """Of many hosts, only the recommended policy."""
    if len(made.hosts) <= _MOST_IN_FULL:
        return host.results
    return [host.chosen or host.results[0]]


def _assumptions(made: FleetStudy) -> list[str]:
    """What the figures stand on; what is the same of many hosts is said once."""
    hosts: dict[str, list[str]] = {}
    for host in made.hosts:
        for note in host.facts.assumptions:
            hosts.setdefault(note, []).append(host.name)
    said = [f"{_some(names)}: {note}" for note, names in hosts.items()]
    more = len(said) - _MOST_NOTES
    return said if more <= 0 else [*said[:_MOST_NOTES], f"and {more:,} more"]


def _classes(made: FleetStudy, division: Division) -> parts.Table:
    """The classes of hosts that a policy each is recommended for, and what it does on them."""
    known = {host.name: host for host in made.hosts}
    rows = []
    for one in division.classes:
        hosts = [known[name] for name in one.hosts if name in known]
        if one.policy is None or not hosts:
            continue
        total = fleet_sum([made.lineup.result_of(one.policy, host.results) for host in hosts])
        cells = [
            parts.Cell(one.words or "all", head=True),
            parts.Cell(f"{len(hosts):,}", len(hosts)),
            parts.Cell(_some([host.name for host in hosts], _MOST_OF_CLASS), style="text"),
            parts.Cell(total.name, style="text"),
            *parts.figures(_OF_CLASS, total),
        ]
        rows.append(parts.Row(cells))
    return parts.Table("Classes of hosts", ["class", "hosts", "which", "policy", *parts.heads(_OF_CLASS)], rows)


def _why_classes(division: Division) -> list[str]:
    """Why there are so many classes, and which hosts a class's policy does not fit."""
    fitted = (f"{one.words or 'All hosts'}: {fits(one)}" for one in division.classes)
    return [*division.said, *(text[0].upper() + text[1:] for text in fitted)]


def _by_disk(made: FleetStudy) -> parts.Table | None:
    """The recommended policy on hosts with disks of like size; None where there is but one size, or no policy."""
    sizes: dict[int, list[OnHost]] = {}
    for host in made.hosts:
        if host.chosen is not None:
            sizes.setdefault(max(host.total, 1).bit_length(), []).append(host)
    if len(sizes) < _LEAST_CLASSES:
        return None
    rows = []
    for bits, hosts in sorted(sizes.items()):
        total = fleet_sum([host.chosen for host in hosts if host.chosen is not None])
        words = f"{format_bytes(2 ** (bits - 1))} to {format_bytes(2**bits)}"
        cells = [
            parts.Cell(words, bits, head=True),
            parts.Cell(f"{len(hosts):,}", len(hosts)),
            *parts.figures(_OF_CLASS, total),
        ]
        rows.append(parts.Row(cells))
    return parts.Table("Hosts by the size of their disks", ["disk", "hosts", *parts.heads(_OF_CLASS)], rows)


def _figure(host: OnHost, name: str) -> float:
    return float(getattr(host.chosen, name))


def _charted(made: FleetStudy) -> list[OnHost]:
    """The hosts that have a chart: of many, those that would pull most again."""
    if len(made.hosts) <= _MOST_CHARTS:
        return list(made.hosts)
    most = sorted(made.hosts, key=lambda host: -max((result.repulled_bytes for result in host.results), default=0))
    return most[:_MOST_CHARTS]


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _table(caption: str, made: FleetStudy, groups: Sequence[tuple[str, Sequence[Result]]]) -> parts.Table:
    columns = parts.columns(result for host in made.hosts for result in host.results)
    rows = []
    for host, results in groups:
        for result in results:
            chosen = made.chosen is not None and result.name == made.chosen.name
            policy = parts.Cell(result.name, style="text", tag=made.lineup.proposal.word if chosen else "")
            rows.append(parts.Row([parts.Cell(host, head=True), policy, *parts.figures(columns, result)], chosen))
    return parts.Table(caption, ["host", "policy", *parts.heads(columns)], rows)


def _hosts(made: FleetStudy) -> parts.Table:
    rows = [
        parts.Row(
            [
                parts.Cell(host.name, style="name", head=True),
                *(parts.Cell(format_time(at), at) for at in (host.facts.begin, host.facts.end)),
                *(parts.Cell(f"{count:,}", count) for count in (host.facts.uses, host.facts.images)),
                parts.bytes_cell(host.total),
            ]
        )
        for host in made.hosts
    ]
    return parts.Table("Hosts and their histories", ["host", "from", "to", "uses", "images", "disk"], rows)


def _data(shown: Sequence[OnHost]) -> dict[str, Any]:
    """What the page's script draws: no lines, no images, and a chart for each host with figures of its own."""
    empty: dict[str, Any] = {
        name: [] for name in ("series", "shown", "free", "marks", "gaps", "names", "stays", "uses")
    }
    specs, own = {}, {}
    for k, host in enumerate(shown):
        specs[f"tradeoff-{k}"] = report_charts.trade_off_chart(host)
        own[f"tradeoff-{k}"] = {"policies": report_charts.trade_off(host), "levels": report_charts.levels(host.total)}
    return {**empty, "levels": [], "policies": [], "offset": 0, "begin": 0, "end": 0, "specs": specs, "own": own}
