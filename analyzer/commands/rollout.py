"""Commands that bring a policy onto a fleet: `rates`, `rollout`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyzer.options.groups import Histories, Spread, grouped
from collector.model.choices import unknown
from collector.model.errors import HindsightError, UsageError
from collector.model.units import format_duration
from collector.terminal import console
from collector.terminal.declare import option
from pruner.policy.file import load_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from analyzer.search.fleet import Findings

PolicyOption = Annotated[Path, option("The policy that is rolled out.", "FILE", "--policy")]
HostsOption = Annotated[int | None, option("How many hosts to start with.", "NUMBER", shown="3, or one in 50", min=1)]
CanaryOption = Annotated[
    list[str] | None,
    option("With --since: a host that the roll-out started with. Repeat it to add.", "NAME", shown="all"),
]
SinceOption = Annotated[
    str | None,
    option(
        "Judge hosts on which the policy is in force since then: how long ago (7d), or a time (2026-11-24).",
        "TIME",
        shown=False,
    ),
]


RatesFileOption = Annotated[Path, option("Write the rates here.", "FILE", "--output", "-o")]


@grouped
def rates(*, histories: Histories, out: RatesFileOption, spread: Spread) -> None:
    """Write how soon images return on a fleet, by situation, as a file that a policy names (rates = FILE).

    A new host's forecasts then start from what the fleet knows. It counts as four weeks of an average host's past.
    """
    from analyzer.report.terminal import patient_progress
    from analyzer.search.each import on_each
    from analyzer.search.rates import Count, rates_file
    from collector.model.paths import write_whole

    sources = histories.sources()
    with patient_progress(f"counting on {len(sources)} hosts") as progress:
        found, notes = on_each(sources, Count(), None, spread.workers(len(sources)), progress)
    try:
        write_whole(out, rates_file(found))
    except OSError as error:
        raise UsageError(f"--output: {out} cannot be written: {error.strerror}") from None
    for note in notes:
        console.print_text(f"note: {note}")
    console.print_text(f'written to {out}: name it in the policy as rates = "{out.absolute()}"')


@grouped
def rollout(
    *,
    histories: Histories,
    policy: PolicyOption,
    hosts: HostsOption = None,
    since: SinceOption = None,
    canary: CanaryOption = None,
    spread: Spread,
    output: console.FormatOption = console.Format.TABLE,
) -> None:
    """Choose the hosts to start with and what to expect there; a week later, judge whether it came true.

    What is expected of a host is what the policy would have done in its history. With --since, that history ends
    there, and the logs from then on are compared with it; the verdict is one line, and the exit status is 1 if the
    roll-out should wait.
    """
    from analyzer.report.terminal import patient_progress
    from analyzer.report.terminal_rollout import print_beginning, print_verdict
    from analyzer.search.each import on_each
    from analyzer.search.rollout import Expected, Preview, canaries, default_count, judge
    from pruner.report.history import since_when

    chosen, begun = load_policy(policy), None if since is None else since_when(since)
    sources = histories.sources()
    if canary:
        if begun is None:
            raise UsageError("--canary: needs --since, with which the hosts that the roll-out started with are judged")
        known = {name for source in sources for name in (source.host, source.label) if name}
        if strange := sorted(set(canary) - known):
            raise UsageError(f"--canary: no log knows host '{strange[0]}'{unknown(strange[0], sorted(known))}")
        sources = [source for source in sources if {source.host, source.label} & set(canary)]
    with patient_progress(f"replaying {len(sources)} hosts") as progress:
        workers = spread.workers(len(sources))
        found, notes = on_each(sources, Preview(chosen, begun), None, workers, progress, none_will_do=bool(canary))
    if begun is None:
        expected = [Expected.of(one) for one in found]
        begin = canaries(expected, hosts or default_count(len(expected)))
        print_beginning(expected, begin, output, [*notes, *_notes_on(found, [one.expected.host for one in begin])])
        return
    by_name = {one.host: one for one in found}
    there = [source for source in sources if source.name in by_name]
    judged = []
    for source in there:
        try:
            judged.append(judge(source, by_name[source.name], chosen, begun))
        except HindsightError as error:
            notes.append(f"host {source.name} cannot be judged: {error}")
    notes += _notes_on(found, [one.expected.host for one in judged if canary or one.observed.prunes])
    named = [source.name for source in sources] if canary else []
    if not print_verdict(judged, output, notes, named):
        raise typer.Exit(HindsightError.exit_status)


def _notes_on(found: Sequence[Findings], hosts: Sequence[str]) -> list[str]:
    """What had to be assumed, or set aside, of the histories of these hosts."""
    from collector.queries.status import LEAST_HISTORY_S

    shown = [one for one in found if one.host in hosts]
    short = [one for one in shown if one.results[0].seconds < LEAST_HISTORY_S]
    said = [f"{one.host}: predicted from only {format_duration(one.results[0].seconds)} of history" for one in short]
    return [*said, *(f"{one.host}: {note}" for one in shown for note in one.facts.assumptions)]
