"""Reports of sweeps and recommendations, for people and machines."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from analyzer.report.terminal import Output, print_legend, short_names
from analyzer.search.allowlist import Earned, Entry
from analyzer.search.fleet import FLEET, Findings, fleet_sums
from analyzer.search.pareto import pareto
from analyzer.search.proposal import Proposal, reasons
from analyzer.search.recommend import Constraints, Recommendation, SplitResult
from analyzer.simulation.figures import cells, headers, in_grids, legend, lightest
from analyzer.simulation.result import Result
from analyzer.trace.describe import HistoryFacts, disk_range, notes_of
from analyzer.trace.trace import Trace
from collector.model.errors import HindsightError, UsageError
from collector.model.paths import write_whole
from collector.model.units import format_bytes, format_count, format_time
from collector.terminal import console
from pruner.policy.file import load_policy, to_json, to_toml
from pruner.policy.policy import Policy


class NothingFitsError(HindsightError):
    """No policy does what was asked for."""


_FRONT = "*: no other policy of the grid is as good in bytes, incidents, free space and losses, and better in one."
_MOST_HEADINGS = 20
_MARKS = {(False, False): "", (True, False): "*", (False, True): "R", (True, True): "* R"}
Row = tuple[str, Result, bool, bool]
"""A host, a result on it, whether no other beats it, whether its policy is recommended."""


def print_sweep(
    trace: Trace,
    results: Sequence[Result],
    output: Output,
    left_out: int = 0,
    proposal: Proposal | None = None,
    *,
    front_only: bool = False,
) -> None:
    """Print one row per policy, those on the Pareto front marked, and the recommended one.

    Args:
        trace: the history.
        results: one for each policy.
        output: table, JSON or CSV.
        left_out: how many combinations contradict themselves.
        proposal: what is recommended of them; None: that was not asked.
        front_only: whether to show the marked ones only.
    """
    rows = _rows(trace.host, results, proposal, front_only=front_only)
    notes = contradicting(left_out)
    if output is Output.JSON:
        console.print_json({**HistoryFacts.of(trace, notes).to_json(), "policies": [_figures(row) for row in rows]})
    elif output is Output.CSV:
        figures = [_figures(row) for row in rows]
        writer = csv.DictWriter(sys.stdout, fieldnames=list(figures[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(figures)
    else:
        _print_table(trace, results, rows, notes, _marks_meaning(proposal, rows))


def contradicting(left_out: int) -> list[str]:
    """The note on combinations that a sweep left out."""
    return [f"{left_out} combinations contradict themselves and are left out"] if left_out else []


def _rows(host: str, results: Sequence[Result], proposal: Proposal | None, *, front_only: bool) -> list[Row]:
    """The results on one host with their marks, or those of them that have one."""
    wanted = proposal.name if proposal is not None and proposal.holds else None
    rows = [(host, result, best, result.name == wanted) for result, best in zip(results, pareto(results), strict=True)]
    return [row for row in rows if row[2] or row[3] or not front_only]


def _figures(row: Row) -> dict[str, Any]:
    _, result, best, recommended = row
    return {**result.to_json(), "pareto": best, "recommended": recommended}


def _marks_meaning(proposal: Proposal | None, rows: Sequence[Row]) -> list[str]:
    """What the marks of rows of one host say: why this policy, and why not one of those that no other beats."""
    said = [_FRONT]
    if proposal is None:
        return [*said, "Of so many none is marked as recommended: `analyzer recommend` says what to set."]
    if not proposal.holds:
        return [*said, "None is recommended: no policy of these keeps the disk from filling up and loses no image."]
    said.append(f"R: what `analyzer recommend` sets of these. {proposal.choice}")
    chosen = next((result for _, result, best, recommended in rows if recommended and not best), None)
    rival = next((result for _, result, best, _ in rows if best), None)
    if chosen is not None and rival is not None:
        said.append(
            "It is off the front, where free space counts and kept images do not: "
            f"{rival.name.partition(', ')[0]} leaves {format_bytes(rival.min_free)} and keeps "
            f"{format_bytes(rival.mean_held_bytes)} on average, this one {format_bytes(chosen.min_free)} and "
            f"{format_bytes(chosen.mean_held_bytes)}."
        )
    return said


def _print_table(
    trace: Trace, results: Sequence[Result], rows: Sequence[Row], notes: Sequence[str], marks: Sequence[str]
) -> None:
    print_heading(trace, results[0].compulsory_bytes, notes)
    best = sum(row[2] for row in rows)
    console.print_text(f"{len(results):,} policies, {best:,} of them beaten by no other")
    full = [result.name for result in results]
    short, common = short_names(full)
    names = dict(zip(full, short, strict=True))
    if common:
        console.print_text(f"all policies: {', '.join(common)}")
    typer.echo()
    shown = in_grids(results)
    table = [
        [names[result.name], _MARKS[best, recommended], *cells(shown, result)] for _, result, best, recommended in rows
    ]
    left_out = console.print_table(
        ("POLICY", "FRONT", *headers(shown)), table, right=headers(shown), names=("POLICY",), optional=lightest(shown)
    )
    typer.echo()
    for sentence in marks:
        console.print_text(sentence, "dim")
    print_legend(legend(shown), left_out)


def print_heading(trace: Trace, compulsory_bytes: int, notes: Sequence[str] = ()) -> None:
    """Print what a report stands on."""
    console.print_text(f"{trace}, from {format_time(trace.utc(0.0))} to {format_time(trace.utc(trace.end))}")
    console.print_text(f"disk {disk_range(trace)}; first pulls of all images: {format_bytes(compulsory_bytes)}")
    for note in (*notes_of(trace), *notes):
        console.print_text(f"note: {note}")


def print_fleet(
    found: Sequence[Findings],
    output: Output,
    notes: Sequence[str] = (),
    proposal: Proposal | None = None,
    *,
    marked: bool = False,
    front_only: bool = False,
) -> None:
    """Print one row per host and policy, and one per policy for all hosts together.

    Args:
        found: what was found on each host.
        output: table, JSON or CSV.
        notes: what is to be said besides.
        proposal: what is recommended for all of them; None: that was not asked.
        marked: whether to mark on each host, and of the sums, what no other policy beats, and what is recommended.
        front_only: whether to show only what is marked.
    """
    sums = fleet_sums([findings.results for findings in found])
    groups = [*((findings.host, findings.results) for findings in found), (FLEET, tuple(sums))]
    rows = [row for host, results in groups for row in _rows(host, results, proposal, front_only=front_only)]
    figures = [{"host": row[0], **(_figures(row) if marked else row[1].to_json())} for row in rows]
    if output is Output.JSON:
        hosts = [findings.facts.to_json() for findings in found]
        console.print_json({"hosts": hosts, "notes": list(notes), "policies": figures})
    elif output is Output.CSV:
        writer = csv.DictWriter(sys.stdout, fieldnames=list(figures[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(figures)
    else:
        on_all = [row for row in rows if row[0] == FLEET]
        _print_fleet_table(found, rows, notes, _marks_meaning(proposal, on_all) if marked else [])


def _print_fleet_table(
    found: Sequence[Findings], rows: Sequence[Row], notes: Sequence[str], marks: Sequence[str]
) -> None:
    for findings in found:
        for line in findings.heading:
            console.print_text(line)
    for note in notes:
        console.print_text(f"note: {note}")
    names, common = short_names([row[1].name for row in rows])
    if common:
        console.print_text(f"all policies: {', '.join(common)}")
    typer.echo()
    front = ("FRONT",) if marks else ()
    shown = in_grids(row[1] for row in rows)
    table = [
        [
            host,
            name,
            *((_MARKS[best, recommended],) if marks else ()),
            *cells(shown, result),
        ]
        for name, (host, result, best, recommended) in zip(names, rows, strict=True)
    ]
    left_out = console.print_table(
        ("HOST", "POLICY", *front, *headers(shown)),
        table,
        right=headers(shown),
        names=("HOST",),
        optional=lightest(shown),
    )
    typer.echo()
    for sentence in marks:
        console.print_text(sentence, "dim")
    print_legend(legend(shown), left_out)


def finish_recommendation(
    found: Recommendation,
    parts: Sequence[tuple[Findings, Findings | None]],
    constraints: Constraints,
    share: float,
    output: console.Format,
    out: Path | None,
    notes: Sequence[str] = (),
) -> None:
    """Print a recommendation and write its policy.

    Raises:
        NothingFitsError: no policy keeps to the constraints, or the chosen one does not on the rest.
        UsageError: the file cannot be written.
    """
    said = reasons(found, constraints, share)
    chosen = required(found, said)
    if output is console.Format.JSON:
        console.print_json(recommendation_json(found, parts, said, notes))
    else:
        print_recommendation(found, parts, said, notes)
    refuse_broken(found, chosen, share)
    if out is not None:
        write_policy(chosen.candidate.policy, said, out)
        if output is not console.Format.JSON:
            console.print_text(f"written to {out}")


def required(found: Recommendation, said: Sequence[str], more: str = "") -> SplitResult:
    """The chosen policy. Raises NothingFitsError."""
    if found.chosen is None:
        raise NothingFitsError(said[0] + more)
    return found.chosen


def refuse_broken(found: Recommendation, chosen: SplitResult, share: float) -> None:
    """Raises NothingFitsError if the chosen policy does not keep to the constraints on the rest of the history."""
    if found.broken:
        raise NothingFitsError(
            f"{chosen.candidate.name} fitted the first {share:.0%} of the history but not the rest "
            f"({'; '.join(found.broken)}), and no policy fits all of it: ask for less, or give the disk more space"
        )


def write_policy(policy: Policy, said: Sequence[str], out: Path) -> None:
    """Write a policy file that says why, and read it back. Raises UsageError."""
    lines = [f"# {line}" for sentence in said for line in textwrap.wrap(sentence, 110)]
    try:
        write_whole(out, "\n".join([*lines, "", to_toml(policy)]))
    except OSError as error:
        raise UsageError(f"--output: {out} cannot be written: {error.strerror}") from None
    if load_policy(out) != policy:
        raise UsageError(f"--output: {out} does not read back as the policy: report this")


def recommendation_json(
    found: Recommendation,
    parts: Sequence[tuple[Findings, Findings | None]],
    said: Sequence[str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """A recommendation for machines."""

    def both(first: Result, rest: Result | None) -> dict[str, Any]:
        return {"first": first.to_json(), "rest": None if rest is None else rest.to_json()}

    chosen, second = found.chosen, found.runner_up
    return {
        "hosts": [(rest or first).facts.to_json() for first, rest in parts],
        "notes": list(notes),
        "policy": None if chosen is None else to_json(chosen.candidate.policy),
        "tried": found.tried,
        "fitting": found.fitting,
        "broken_on_the_rest": list(found.broken),
        "chosen_on_all": found.overruled is not None,
        "chosen": None if chosen is None else both(chosen.first, chosen.rest),
        "runner_up": None if second is None else both(second.first, second.rest),
        "baselines": [both(*pair) for pair in found.baselines],
        "why": list(said),
    }


def print_recommendation(
    found: Recommendation,
    parts: Sequence[tuple[Findings, Findings | None]],
    said: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Print a recommendation for people."""
    for first, rest in parts[:_MOST_HEADINGS]:
        for line in (rest or first).heading:
            console.print_text(line)
    if len(parts) > _MOST_HEADINGS:
        console.print_text(f"and {len(parts) - _MOST_HEADINGS:,} more hosts")
    for note in notes:
        console.print_text(f"note: {note}")
    typer.echo()
    for sentence in said:
        console.print_text(sentence)
    typer.echo()
    outcomes = [item for item in (found.chosen, found.runner_up) if item is not None]
    rows: list[tuple[Result, Result | None]] = [(item.first, item.rest) for item in outcomes]
    rows += found.baselines
    names, common = short_names([first.name for first, _ in rows])
    if common:
        console.print_text(f"all policies: {', '.join(common)}")
    shown = in_grids(first for first, _ in rows)
    table = [
        [name if part == "first" else "", part if later else "all", *cells(shown, result)]
        for name, (first, later) in zip(names, rows, strict=True)
        for part, result in (("first", first), ("rest", later))
        if result is not None
    ]
    console.print_table(
        ("POLICY", "PART", *headers(shown)), table, right=headers(shown), names=("POLICY",), optional=lightest(shown)
    )
    typer.echo()


def print_earned(trace: Trace, policy: Policy, earned: Earned, output: console.Format) -> None:
    """Print what each allowlist entry gains or costs."""
    first, rest = earned.without
    if output is console.Format.JSON:
        console.print_json(
            {
                "host": trace.host,
                "policy": str(policy),
                "considered": earned.considered,
                "allowlist": list(earned.allowlist),
                "repulled_bytes_without": [first.repulled_bytes, None if rest is None else rest.repulled_bytes],
                "entries": [
                    {
                        "entry": entry.glob,
                        "proposed": entry.glob in earned.allowlist,
                        "gain_first_bytes": entry.gain_first,
                        "gain_rest_bytes": entry.gain_rest,
                        "more_disk_full": entry.incidents,
                        "verdict": verdict(entry),
                    }
                    for entry in earned.entries
                ],
            }
        )
        return
    print_heading(trace, first.compulsory_bytes + (0 if rest is None else rest.compulsory_bytes))
    later = "" if rest is None else f" on the first part, {format_bytes(rest.repulled_bytes)} on the rest"
    console.print_text(
        f"without an allowlist this policy pulls {format_bytes(first.repulled_bytes)} again{later}; "
        f"{earned.considered} globs were tried"
    )
    typer.echo()
    if not earned.entries:
        why = "No entry gains anything" if first.repulled_bytes else "Nothing is pulled again, so no entry can gain"
        console.print_text(f"{why}: leave the allowlist empty.")
        return
    rows = [
        [
            entry.glob,
            format_bytes(entry.gain_first),
            "-" if entry.gain_rest is None else format_bytes(entry.gain_rest),
            f"{entry.incidents:+,}" if entry.incidents else "0",
            verdict(entry),
        ]
        for entry in earned.entries
    ]
    console.print_table(
        ("ENTRY", "GAIN", "ON THE REST", "FAILED PULLS", "VERDICT"),
        rows,
        right=("GAIN", "ON THE REST", "FAILED PULLS"),
        names=("ENTRY",),
        below=("VERDICT",),
    )
    typer.echo()
    if earned.allowlist:
        console.print_text(f"allowlist = {json.dumps(list(earned.allowlist), ensure_ascii=False)}")


def verdict(entry: Entry) -> str:
    """In words whether an entry is worth its place."""
    if entry.incidents > 0:
        return f"costs {format_count(entry.incidents, 'disk-full incident')}: leave it out"
    if entry.gain > 0:
        return f"saves {format_bytes(entry.gain)}"
    if entry.gain < 0:
        return f"costs {format_bytes(-entry.gain)} pulled again: leave it out"
    return "gains nothing: leave it out"
