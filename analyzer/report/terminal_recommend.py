"""The report of a recommendation, for people and machines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from analyzer.report.terminal import print_names
from analyzer.search.fleet import Findings
from analyzer.search.proposal import reasons
from analyzer.search.recommend import Constraints, Recommendation, SplitResult
from analyzer.simulation.figures import cells, headers, in_grids, lightest
from analyzer.simulation.result import Result
from analyzer.trace.describe import FAILED
from collector.model.errors import HindsightError, UsageError
from collector.model.paths import write_whole
from collector.terminal import console
from pruner.policy.file import load_policy, to_json, to_toml
from pruner.policy.policy import Policy

_MOST_HEADINGS = 20


class NothingFitsError(HindsightError):
    """No policy does what was asked for."""


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
        NothingFitsError: no policy meets the constraints, or the chosen one does not on the rest.
        UsageError: the file cannot be written.
    """
    said = reasons(found, constraints, share)
    every = (note for first, rest in parts for note in (rest or first).facts.assumptions)
    failures = "".join(f"; {note}" for note in every if note.startswith(FAILED))
    chosen = required(found, said, failures)
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
    """Raises NothingFitsError if the chosen policy does not meet the constraints on the rest of the history."""
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
    names = print_names([first.name for first, _ in rows])
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
