"""The lines of the report's first chart, their colours and the boxes that switch them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyzer.report import study as report_data
from analyzer.report.page_data import Scale, line
from analyzer.report.study import AS_RECORDED, Study
from analyzer.trace.trace import Integers

THIS = "shown"
# The page's colours by number: that of the text is what was recorded, the next what is shown.
_RESERVED = {AS_RECORDED: 0, THIS: 1, "recommended": 3, "comes closest": 3}
_OTHERS = (2, 4, 5, 6)


def colours(names: Sequence[str]) -> list[int]:
    """The number of each line's colour."""
    others = itertools.cycle(_OTHERS)
    return [_RESERVED[name] if name in _RESERVED else next(others) for name in names]


def lines_beside(made: Study, scale: Scale) -> Iterator[tuple[str, Integers]]:
    """The lines beside that of the policy that is shown, by name: recorded, recommended, baselines."""
    if report_data.is_recorded(made):
        yield AS_RECORDED, line(scale, made.recorded.seconds, made.recorded.free, made.trace.end)
    if made.chosen is not None:
        yield made.lineup.proposal.word, report_data.free_line(made.trace, scale, made.chosen)
    for result in made.results:
        if result.baseline:
            yield result.name, report_data.free_line(made.trace, scale, result)


@dataclass(frozen=True, slots=True)
class Chip:
    """The box of a line: its name, its colour's number, and whether it is shown at first."""

    name: str
    colour: int
    shown: bool


def chips(made: Study) -> list[Chip]:
    """A box for each line to compare with."""
    rival = "" if made.rival is None else made.rival.name
    names = [name for name, _ in lines_beside(made, Scale.of(made.total))]
    return [
        Chip(name, colour, name in {AS_RECORDED, made.lineup.proposal.word, rival})
        for name, colour in zip(names, colours(names), strict=True)
    ]
