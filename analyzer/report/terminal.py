"""Results for people and machines: tables, CSV and JSON."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from itertools import chain
from typing import Any

import typer

from analyzer.simulation.figures import Figure, cells, headers, in_tables, legend, lightest
from analyzer.simulation.result import Result
from analyzer.trace.describe import HistoryFacts, disk_range, notes_of
from analyzer.trace.trace import Trace
from collector.model.units import format_bytes, format_time
from collector.terminal import console

_PATIENCE_S = 1.0


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


POLICY = "POLICY"
REGRET = "REGRET"
_REGRET_LEGEND = "re-pulled bytes that a clairvoyant spares, to what no policy could do better than."


def print_results(trace: Trace, results: Sequence[Result], output: Output, notes: Sequence[str] = ()) -> None:
    """Print one row per policy."""
    if output is Output.JSON:
        facts = HistoryFacts.of(trace, notes).to_json()
        console.print_json({**facts, "policies": results})
    elif output is Output.CSV:
        print_csv([result.to_json() for result in results])
    else:
        print_table(trace, results, notes)


def print_csv(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows with equal columns, at least one, as CSV."""
    rest = iter(rows)
    first = next(rest)
    writer = csv.DictWriter(sys.stdout, fieldnames=list(first), lineterminator="\n")
    writer.writeheader()
    writer.writerows(chain((first,), rest))


def print_heading(trace: Trace, compulsory_bytes: int, notes: Sequence[str] = ()) -> None:
    """Print what a report is based on."""
    console.print_text(f"{trace}, from {format_time(trace.utc(0.0))} to {format_time(trace.utc(trace.end))}")
    console.print_text(f"disk {disk_range(trace)}; first pulls of all images: {format_bytes(compulsory_bytes)}")
    for note in (*notes_of(trace), *notes):
        console.print_text(f"note: {note}")


def print_names(names: Sequence[str]) -> list[str]:
    """Print the clauses that all policies share; the names without them."""
    short, common = short_names(names)
    if common:
        console.print_text(f"all policies: {', '.join(common)}")
    return short


def print_table(trace: Trace, results: Sequence[Result], notes: Sequence[str] = ()) -> None:
    """Print the table, with what it is based on above and what it means below."""
    print_heading(trace, min(result.compulsory_bytes for result in results), notes)
    names = print_names([result.name for result in results])
    typer.echo()
    shown = in_tables(results)
    legends = legend(shown)
    rows = [[name, *cells(shown, result)] for name, result in zip(names, results, strict=True)]
    columns = headers(shown)
    if any(result.optimum_most is not None for result in results):
        columns.append(REGRET)
        legends[REGRET] = _REGRET_LEGEND
        rows = [[*row, regret(result)] for row, result in zip(rows, results, strict=True)]
    left_out = console.print_table([POLICY, *columns], rows, right=columns, optional=_by_weight(shown, results))
    typer.echo()
    print_legend(legends, left_out)


def print_legend(legends: Mapping[str, str], left_out: Sequence[str]) -> None:
    """Print what the columns of a table mean, but those that were left out."""
    for column, meaning in legends.items():
        if column not in left_out:
            console.print_text(f"{column}: {meaning}", "dim")


def regret(result: Result) -> str:
    """Between how many bytes more than the optimum a policy re-pulled."""
    if result.optimum_least is None or result.optimum_most is None:
        return "-"
    least, most = max(0, result.repulled_bytes - result.optimum_most), result.repulled_bytes - result.optimum_least
    return format_bytes(most) if least == most else f"{format_bytes(least)} to {format_bytes(most)}"


def short_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of policies without the clauses that all policies share, and these clauses.

    Names without clauses (baselines) do not count. A lone policy keeps its whole name.
    """
    clauses = [name.split(", ") for name in names]
    ours = [parts for parts in clauses if len(parts) > 1]
    common = [part for part in ours[0][1:] if all(part in parts for parts in ours)] if len(ours) > 1 else []
    return [", ".join(part for part in parts if part not in common) for parts in clauses], common


def _by_weight(shown: Mapping[str, Figure], results: Sequence[Result]) -> list[str]:
    """The columns, the least informative first: where every row says the same, there is little to compare."""
    same = {
        figure.header
        for name, figure in shown.items()
        if len({figure.text(getattr(result, name)) for result in results}) == 1
    }
    return sorted(lightest(shown), key=lambda header: header not in same)


@contextmanager
def patient_progress(what: str) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr that appears after a second; yields a function of the share done."""
    began = time.monotonic()
    with ExitStack() as stack:
        update: Callable[[int, int], None] | None = None

        def report(share: float) -> None:
            nonlocal update
            if update is None and time.monotonic() - began > _PATIENCE_S:
                update = stack.enter_context(console.progress(what))
            if update is not None:
                update(round(1000 * share), 1000)

        yield report
