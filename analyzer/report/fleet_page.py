"""The report on several hosts: the same page, with a row for each host and policy and their sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from analyzer.report import charts as report_charts
from analyzer.report import parts
from analyzer.report.study import Lineup
from analyzer.report.terminal import short_names
from analyzer.search.fleet import FLEET, Findings, fleet_sums
from analyzer.simulation.result import Result
from analyzer.trace.describe import HistoryFacts
from collector.model.units import format_bytes, format_count, format_duration, format_time

_MOST_CHARTS = 24


@dataclass(frozen=True, slots=True)
class OnHost:
    """What was found on one host.

    Attributes:
        name: the host's name.
        facts: what it stands on.
        results: what others do, then our policies.
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
        rival: the sum of what others do, to tell the story against; None: nothing to compare with.
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
        found: what was found on each host, at least one: what others do, then one for each policy of the line-up.
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
    library, script = parts.library(), parts.part("report.js")
    shown = _charted(made)
    rest = len(made.hosts) - len(shown)
    return Template(parts.part("fleet.html")).substitute(
        hashes=f"{parts.script_hash(library)} {parts.script_hash(script)}",
        version=escape(version("docker-hindsight")),
        count=f"{len(made.hosts):,}",
        style=parts.part("report.css"),
        story=_story(made),
        uses=f"{sum(host.facts.uses for host in made.hosts):,}",
        begin=format_time(min(host.facts.begin for host in made.hosts)),
        end=format_time(max(host.facts.end for host in made.hosts)),
        total=parts.size(sum(host.total for host in made.hosts)),
        verdict=_verdict(made),
        why=parts.why(made.lineup.proposal),
        diamond=parts.diamond(made.lineup.proposal, " for all"),
        charts="".join(_figure(k, host) for k, host in enumerate(shown)),
        rest=f"The {rest:,} hosts that pull less again are in the table only." if rest else "",
        sums=_table("Sums over all hosts", made, [(FLEET, made.sums)]),
        policies=_table("Hosts and policies", made, [(host.name, host.results) for host in made.hosts]),
        common=f"All policies: {escape(', '.join(made.common))}." if made.common else "",
        hosts=_hosts(made),
        notes=_notes(made),
        data=parts.data_text(_data(shown)),
        library=library,
        script=script,
    )


def _charted(made: FleetStudy) -> list[OnHost]:
    """The hosts that have a chart: of many, those that would pull most again."""
    if len(made.hosts) <= _MOST_CHARTS:
        return list(made.hosts)
    most = sorted(made.hosts, key=lambda host: -max((result.repulled_bytes for result in host.results), default=0))
    return most[:_MOST_CHARTS]


def _story(made: FleetStudy) -> str:
    chosen, rival, count = made.chosen, made.rival, len(made.hosts)
    hosts = format_count(count, "host")
    if chosen is None:
        return f"What others do, on {hosts}"
    if not made.lineup.proposal.holds:
        return parts.unfit(chosen, rival, hosts)
    told = f"{parts.short(chosen)} {hosts} would have {parts.whole('re-pulled')} {parts.size(chosen.repulled_bytes)}"
    return told if rival is None else f"{told}; {parts.whole(rival.name)} {parts.size(rival.repulled_bytes)}"


def _verdict(made: FleetStudy) -> str:
    chosen, rival = made.chosen, made.rival
    if chosen is None:
        return ""
    ours = [(host, host.chosen) for host in made.hosts if host.chosen is not None]
    tightest, least = min(ours, key=lambda pair: pair[1].min_free / pair[0].total)
    heaviest, most = max(ours, key=lambda pair: pair[1].repulled_bytes)
    full = [host.name for host, result in ours if result.disk_full]
    told = (
        f"{parts.recommended(made.lineup.proposal, chosen.name)} In the whole time under it "
        f"{parts.times(chosen.disk_full, 'pull', 'pulls')} would have found the disk full"
        f"{f' (on {escape(_some(full))})' if full else ''}, and {chosen.removals:,} images would have been removed. "
        f"Space would have been scarcest on {escape(tightest.name)}: {parts.least_free(least)}."
    )
    words = [told]
    if most.repulled_bytes:
        words.append(
            f"Most would have been pulled again by {escape(heaviest.name)}: {parts.size(most.repulled_bytes)}."
        )
    if rival is not None and rival.repulled_bytes > chosen.repulled_bytes:
        words.append(
            f"<strong>{escape(rival.name)}</strong> would have removed {rival.removals:,}, and spent "
            f"{format_duration(rival.repull_seconds)} pulling them again, at {parts.size(rival.pull_rate)} a second."
        )

    def card(text: str, figure: Any) -> tuple[str, str]:
        return figure(chosen), text if rival is None else f"{text}; {escape(rival.name)}: {figure(rival)}"

    cards = [
        card("pulled again on all hosts", lambda result: parts.size(result.repulled_bytes)),
        card("least free space of any host", lambda result: parts.size(result.min_free)),
        card("pulls that found the disk full", lambda result: f"{result.disk_full:,}"),
        card("of uses found their image", lambda result: f"{result.hit_ratio:.2%}"),
    ]
    return parts.lead(words, cards)


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _figure(number: int, host: OnHost) -> str:
    name = escape(host.name)
    label = f"Scatter plot of {name}; all its figures are in the table of hosts and policies below"
    return (
        f'<figure aria-labelledby="h-host-{number}" aria-describedby="d-trade"><h3 id="h-host-{number}">{name}</h3>'
        f'<div class="chart" id="chart-tradeoff-{number}" role="img" aria-label="{label}"></div></figure>'
    )


def _table(caption: str, made: FleetStudy, groups: Sequence[tuple[str, Sequence[Result]]]) -> str:
    columns = parts.columns(result for host in made.hosts for result in host.results)
    chosen = None if made.chosen is None else made.chosen.name
    flat = [(host, result) for host, results in groups for result in results]
    rows = [
        [
            f'<th scope="row">{escape(host)}</th>',
            f'<td class="text">{escape(result.name)}{parts.tag(result.name == chosen, made.lineup.proposal)}</td>',
            *parts.figures(columns, result),
        ]
        for host, result in flat
    ]
    classes = ["chosen" if result.name == chosen else "" for _, result in flat]
    return parts.table(caption, ["host", "policy", *parts.heads(columns)], rows, classes)


def _hosts(made: FleetStudy) -> str:
    rows = [
        [
            f'<th scope="row" class="name">{escape(host.name)}</th>',
            *(parts.cell(format_time(at), at) for at in (host.facts.begin, host.facts.end)),
            *(parts.cell(f"{count:,}", count) for count in (host.facts.uses, host.facts.images)),
            parts.cell(format_bytes(host.total), host.total),
        ]
        for host in made.hosts
    ]
    return parts.table("Hosts and their histories", ["host", "from", "to", "uses", "images", "disk"], rows)


def _notes(made: FleetStudy) -> str:
    left_out = "".join(f"<li>{escape(note)}</li>" for note in made.notes)
    assumed = "".join(
        f"<li>{escape(host.name)}: {escape(note)}</li>" for host in made.hosts for note in host.facts.assumptions
    )
    return _list("h-left", "Hosts left out", left_out) + _list("h-notes", "What these figures stand on", assumed)


def _list(name: str, heading: str, items: str) -> str:
    if not items:
        return ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{heading}</h2><ul class="notes">{items}</ul></section>'


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
