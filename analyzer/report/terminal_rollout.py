"""The report of a roll-out: with which hosts to begin, and whether they did as predicted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import typer

from analyzer.search.rollout import Canary, Expected, Judged, verdict
from collector.model.errors import HindsightError, LogError
from collector.model.units import format_bytes, format_count, format_duration
from collector.terminal import console

_MOST_NAMED = 20


def print_beginning(
    expected: Sequence[Expected], begin: Sequence[Canary], output: console.Format, notes: Sequence[str] = ()
) -> None:
    """Print the hosts to begin with, and what must be seen there.

    Raises:
        HindsightError: there is none.
    """
    trouble = [one for one in expected if one.trouble]
    if output is console.Format.JSON:
        rows = [{"why": one.why, **one.expected.to_json()} for one in begin]
        console.print_json({"begin": rows, "trouble": [one.to_json() for one in trouble], "notes": list(notes)})
    else:
        _print_beginning(expected, begin, trouble, notes)
    if not begin:
        raise HindsightError("there is no host to start with: `analyzer recommend --log` looks for a better policy")


def _print_beginning(
    expected: Sequence[Expected], begin: Sequence[Canary], trouble: Sequence[Expected], notes: Sequence[str]
) -> None:
    for note in notes:
        console.print_text(f"note: {note}")
    for one in trouble[:_MOST_NAMED]:
        console.print_text(f"not on {one.host}: {one.trouble}", "yellow")
    if len(trouble) > _MOST_NAMED:
        console.print_text(f"nor on {len(trouble) - _MOST_NAMED:,} more", "yellow")
    if not begin:
        return
    console.print_text(f"start with {len(begin)} of {format_count(len(expected), 'host')}:")
    typer.echo()
    rows = [
        (
            one.expected.host,
            format_bytes(one.expected.repulled),
            format_bytes(one.expected.most_repulled),
            format_bytes(one.expected.least_free),
            one.why,
        )
        for one in begin
    ]
    columns = ("HOST", "RE-PULLED", "AT MOST", "LEAST FREE", "WHY")
    console.print_table(columns, rows, right=columns[1:4], names=("HOST",), below=("WHY",))
    typer.echo()
    console.print_text(
        "before the rest, a week of each must show: no full disk, no image lost, no more pulled again than AT MOST, "
        "and prunes that remove what the history says. RE-PULLED and LEAST FREE are predicted from the history."
    )
    console.print_text("next: set the policy there, and after a week run this with --since and a --canary for each")


def print_verdict(
    judged: Sequence[Judged], output: console.Format, notes: Sequence[str], named: Collection[str] = ()
) -> bool:
    """Print whether to go on, in one line, and what was predicted and observed.

    Args:
        judged: the hosts.
        output: table or JSON.
        notes: hosts that are left out, and why.
        named: the hosts that it was begun with; none: those count that pruned by the policy.

    Returns:
        Whether to go on.

    Raises:
        LogError: the policy is in force nowhere.
    """
    shown = [one for one in judged if named or one.observed.prunes]
    known = {one.expected.host for one in shown}
    good, said = verdict(shown, sorted(set(named) - known))
    if not shown and not named:
        raise LogError("no host has pruned by this policy since then: is it in force, and are its logs shipped?")
    if output is console.Format.JSON:
        rows = [one.to_json() for one in shown]
        console.print_json({"go_on": good, "verdict": said, "hosts": rows, "notes": list(notes)})
        return good
    for note in notes:
        console.print_text(f"note: {note}")
    columns = ("HOST", "SEEN", "PRUNES", "RE-PULLED", "PREDICTED", "LEAST FREE", "PREDICTED", "AGREEMENT")
    if shown:
        console.print_table(columns, [_row(one) for one in shown[:_MOST_NAMED]], right=columns[1:], names=("HOST",))
        typer.echo()
    console.print_as_is(said)
    return good


def _row(one: Judged) -> tuple[str, ...]:
    seen = one.observed
    return (
        one.expected.host,
        format_duration(seen.seconds),
        f"{seen.prunes:,}",
        format_bytes(seen.repulled),
        format_bytes(one.expected.repulled),
        "-" if seen.least_free is None else format_bytes(seen.least_free),
        format_bytes(one.expected.least_free),
        "-" if seen.agreement is None else f"{seen.agreement:.1%}",
    )
