"""The report of a recommendation for a fleet: one policy, or one for each class of hosts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from analyzer.report.terminal_recommend import (
    NothingFitsError,
    print_recommendation,
    recommendation_json,
    refuse_broken,
    required,
    write_policy,
)
from analyzer.search.classes import Division, HostClass, fits
from analyzer.search.fleet import Findings
from analyzer.search.proposal import reasons
from analyzer.search.recommend import Constraints
from collector.model.units import format_count
from collector.terminal import console

# A class, what was found on its hosts, and why it gets its policy.
_Reasoned = tuple[HostClass, list[tuple[Findings, Findings | None]], list[str]]


def finish_division(
    made: Division,
    parts: Sequence[tuple[Findings, Findings | None]],
    constraints: Constraints,
    share: float,
    output: console.Format,
    out: Path | None,
    notes: Sequence[str] = (),
) -> None:
    """Print what is recommended for classes of hosts, or for all of them, and write the policies.

    A class for which nothing fits keeps no other from its policy.

    Raises:
        NothingFitsError: for a class no policy meets the constraints, or the chosen one does not on the rest.
        UsageError: a file cannot be written.
    """
    known = {first.host: (first, rest) for first, rest in parts}
    whole: list[_Reasoned] = []
    refused: list[str] = []
    for one in made.classes:
        said = reasons(one.made, constraints, share)
        try:
            required(one.made, said, f"; {_continued(fits(one))}" if one.made.closest is not None else "")
        except NothingFitsError as error:
            refused.append(_named(one, error))
        else:
            whole.append((one, [known[host] for host in one.hosts], said))
    if whole:
        _print(made, whole, output, notes)
    for one, _, said in whole:
        chosen = required(one.made, said)
        try:
            refuse_broken(one.made, chosen, share)
        except NothingFitsError as error:
            refused.append(_named(one, error))
            continue
        if out is not None:
            hosts = [f"For {one.words}: {', '.join(one.hosts)}."] if one.words else []
            file = _file_of(one, out)
            write_policy(chosen.candidate.policy, [*hosts, *said, fits(one), *made.said], file)
            if output is not console.Format.JSON:
                console.print_text(f"written to {file}")
    if refused:
        raise NothingFitsError("; ".join(refused))


def _named(one: HostClass, error: NothingFitsError) -> str:
    return f"{one.words}: {error}" if one.words else str(error)


def _continued(sentence: str) -> str:
    """A sentence as a part of another one."""
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def _print(made: Division, whole: Sequence[_Reasoned], output: console.Format, notes: Sequence[str]) -> None:
    if output is console.Format.JSON:
        rows = [
            {
                "class": one.words,
                "misfits": [asdict(misfit) for misfit in one.misfits],
                **recommendation_json(one.made, members, said, notes),
            }
            for one, members, said in whole
        ]
        judged = None if made.judged is None else made.judged.to_json()
        console.print_json({**rows[0], "judged_by_host": judged, "judgment": list(made.said), "classes": rows})
    else:
        for one, members, said in whole:
            if one.words:
                console.print_text(f"{one.words}: {format_count(len(one.hosts), 'host')}", "bold")
            print_recommendation(one.made, members, [*said, fits(one)], notes if one is whole[0][0] else ())
        for sentence in made.said:
            console.print_text(sentence)


def _file_of(one: HostClass, out: Path) -> Path:
    """The file of a class's policy: beside the one that is named, with what the hosts have in common."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", one.words).strip("-")
    return out.with_name(f"{out.stem}-{words}{out.suffix}") if words else out
