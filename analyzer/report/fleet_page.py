"""The report on several hosts: the same page, with a row for each host and policy and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyzer.report import charts as report_charts
from analyzer.report import parts
from analyzer.report.study import Lineup
from analyzer.report.terminal import short_names
from analyzer.search.fleet import FLEET, Findings, fleet_sums
from analyzer.simulation.result import Result
from analyzer.trace.describe import HistoryFacts
from collector.model.units import format_time

_MOST_CHARTS = 24


@dataclass(frozen=True, slots=True)
class OnHost:
    """What was found on one host.

    Attributes:
        name: the host's name.
        facts: what it stands on.
        results: baselines, then our policies.
        chosen: the policy recommended for all hosts, here.
        lineup: our policies.
    """

    name: str
    facts: HistoryFacts
    results: tuple[Result, ...]
    chosen: Result | None
    lineup: Lineup

    @property
    def total(self) -> int:
        """Bytes of the disk."""
        return self.facts.disk_total_bytes


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
    """

    hosts: tuple[OnHost, ...]
    lineup: Lineup
    sums: tuple[Result, ...]
    chosen: Result | None
    rival: Result | None
    notes: tuple[str, ...]
    common: tuple[str, ...]


def fleet_study(found: Sequence[Findings], lineup: Lineup, notes: Sequence[str] = ()) -> FleetStudy:
    """What a report on several hosts shows.

    Args:
        found: what was found on each host, at least one: baselines, then one for each policy of the line-up.
        lineup: our policies.
        notes: hosts that are left out, and why.
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
            findings.host,
            findings.facts,
            results,
            lineup.chosen(results),
            lineup,
        )
        for findings, results in zip(found, named, strict=True)
    )
    return FleetStudy(hosts, lineup, tuple(sums), chosen, rival, (*notes, *lineup.proposal.notes), tuple(common))


def write_fleet_report(made: FleetStudy, path: Path) -> None:
    """Write the report on a fleet. Raises ReportError."""
    parts.write(render_fleet(made), path)


def render_fleet(made: FleetStudy) -> str:
    """The report as HTML. What comes from the logs is escaped wherever it stands."""
    shown = _charted(made)
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
        policies=_table("Hosts and policies", made, [(host.name, host.results) for host in made.hosts]),
        hosts_table=_hosts(made),
        assumptions=[f"{host.name}: {note}" for host in made.hosts for note in host.facts.assumptions],
    )


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
            tag = parts.tag(made.lineup.proposal, shown=chosen)
            policy = parts.Cell(result.name, style="text", tag=tag)
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
        own[f"tradeoff-{k}"] = {"policies": report_charts.trade_off(host), "levels": report_charts.levels(host)}
    return {**empty, "levels": [], "policies": [], "offset": 0, "begin": 0, "end": 0, "specs": specs, "own": own}
