"""Reports of sweeps and of comparisons over several hosts, for people and machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from analyzer.report.terminal import Output, print_csv, print_heading, print_legend, print_names
from analyzer.search.fleet import FLEET, Findings, fleet_sums
from analyzer.search.pareto import pareto
from analyzer.simulation.figures import Figure, cells, headers, in_grids, legend, lightest
from analyzer.simulation.result import Result
from analyzer.trace.describe import HistoryFacts
from analyzer.trace.trace import Trace
from collector.model.units import format_bytes
from collector.terminal import console

if TYPE_CHECKING:
    from analyzer.search.proposal import Proposal

_FRONT = "*: no other policy of the grid is as good in bytes, incidents, free space and losses, and better in one."
_MARKS = {(False, False): "", (True, False): "*", (False, True): "R", (True, True): "* R"}


@dataclass(frozen=True, slots=True)
class Row:
    """A result on a host.

    Attributes:
        host: the host's name; empty: it is the only one.
        result: the result.
        best: whether no other beats it.
        recommended: whether its policy is recommended.
        marked: whether that is shown.
    """

    host: str
    result: Result
    best: bool
    recommended: bool
    marked: bool = True

    @property
    def mark(self) -> str:
        """What marks it in a table."""
        return _MARKS[self.best, self.recommended]

    def to_json(self) -> dict[str, Any]:
        """Its figures, made when they are printed: those of a thousand hosts take more memory than to find them."""
        host = {"host": self.host} if self.host else {}
        marks = {"pareto": self.best, "recommended": self.recommended} if self.marked else {}
        return {**host, **self.result.to_json(), **marks}


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
    rows = _rows("", results, proposal, front_only=front_only)
    notes = contradicting(left_out)
    if output is Output.JSON:
        console.print_json({**HistoryFacts.of(trace, notes).to_json(), "policies": rows})
    elif output is Output.CSV:
        print_csv(row.to_json() for row in rows)
    else:
        _print_table(trace, results, rows, notes, _marks_meaning(proposal, rows))


def contradicting(left_out: int) -> list[str]:
    """The note on combinations that a sweep left out."""
    return [f"{left_out} combinations contradict themselves and are left out"] if left_out else []


def _rows(
    host: str, results: Sequence[Result], proposal: Proposal | None, *, front_only: bool, marked: bool = True
) -> list[Row]:
    """The results on one host with their marks, or those of them that have one."""
    wanted = proposal.name if proposal is not None and proposal.holds else None
    fronts = zip(results, pareto(results), strict=True)
    rows = [Row(host, result, best, result.name == wanted, marked) for result, best in fronts]
    return [row for row in rows if row.best or row.recommended or not front_only]


def _marks_meaning(proposal: Proposal | None, rows: Sequence[Row]) -> list[str]:
    """What the marks of rows of one host say: why this policy, and why not one of those that no other beats."""
    said = [_FRONT]
    if proposal is None:
        return [*said, "Of so many none is marked as recommended: `analyzer recommend` says what to set."]
    if not proposal.holds:
        which = "no policy of these that leaves half of the disk to images keeps it from filling up and loses no image"
        return [*said, f"None is recommended: {which}."]
    said.append(f"R: what `analyzer recommend` would choose of these. {proposal.choice}")
    chosen = next((row.result for row in rows if row.recommended and not row.best), None)
    rival = next((row.result for row in rows if row.best), None)
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
    best = sum(row.best for row in rows)
    console.print_text(f"{len(results):,} policies, {best:,} of them beaten by no other")
    names = dict(zip(full := [result.name for result in results], print_names(full), strict=True))
    typer.echo()
    shown = in_grids(results)
    table = [[names[row.result.name], row.mark, *cells(shown, row.result)] for row in rows]
    _print_rows(("POLICY", "FRONT"), "POLICY", shown, table, marks)


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
        notes: what else is to be printed.
        proposal: what is recommended for all of them; None: that was not asked.
        marked: whether to mark on each host, and of the sums, what no other policy beats, and what is recommended.
        front_only: whether to show only what is marked.
    """
    sums = fleet_sums([findings.results for findings in found])
    groups = [*((findings.host, findings.results) for findings in found), (FLEET, tuple(sums))]
    rows = [
        row for host, results in groups for row in _rows(host, results, proposal, front_only=front_only, marked=marked)
    ]
    if output is Output.JSON:
        hosts = [findings.facts.to_json() for findings in found]
        console.print_json({"hosts": hosts, "notes": list(notes), "policies": rows})
    elif output is Output.CSV:
        print_csv(row.to_json() for row in rows)
    else:
        on_all = [row for row in rows if row.host == FLEET]
        _print_fleet_table(found, rows, notes, _marks_meaning(proposal, on_all) if marked else [])


def _print_fleet_table(
    found: Sequence[Findings], rows: Sequence[Row], notes: Sequence[str], marks: Sequence[str]
) -> None:
    for findings in found:
        for line in findings.heading:
            console.print_text(line)
    for note in notes:
        console.print_text(f"note: {note}")
    names = print_names([row.result.name for row in rows])
    typer.echo()
    front = ("FRONT",) if marks else ()
    shown = in_grids(row.result for row in rows)
    table = [
        [row.host, name, *((row.mark,) if marks else ()), *cells(shown, row.result)]
        for name, row in zip(names, rows, strict=True)
    ]
    _print_rows(("HOST", "POLICY", *front), "HOST", shown, table, marks)


def _print_rows(
    heads: Sequence[str], name: str, shown: Mapping[str, Figure], table: Sequence[Sequence[str]], marks: Sequence[str]
) -> None:
    """Print a table of results, what its marks say, and what its columns mean."""
    columns = headers(shown)
    left_out = console.print_table((*heads, *columns), table, right=columns, names=(name,), optional=lightest(shown))
    typer.echo()
    for sentence in marks:
        console.print_text(sentence, "dim")
    print_legend(legend(shown), left_out)
