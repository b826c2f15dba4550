"""The report as one HTML file that opens anywhere, offline, and asks the network for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.report import charts, parts
from analyzer.report import study as report_data
from analyzer.report.study import AS_RECORDED, Study, milliseconds, series
from collector.model.units import format_bytes, format_duration, format_time

_YEAR_S = 360 * 86400.0
_NEARLY = 0.03
_COLOURS = 7  # as many are distinguishable; further lines are dashed


def write_report(made: Study, path: Path) -> None:
    """Write the report of a study.

    Raises:
        ReportError: the file cannot be written.
    """
    parts.write(render(made), path)


def render(made: Study) -> str:
    """The report of a study as HTML. What comes from the log is escaped wherever it stands."""
    trace = made.trace
    owners, costs = report_data.costs(made)
    return parts.page(
        "report.html",
        _data(made),
        made=made,
        length="a year" if abs(trace.end - _YEAR_S) < _NEARLY * _YEAR_S else format_duration(trace.end),
        span=f"{format_time(trace.utc(0.0))} to {format_time(trace.utc(trace.end))}",
        # What the images weighed when they came; nothing of images that were there before.
        first_pulls=min((result.compulsory_bytes for result in made.results), default=0),
        never=next((result for result in made.results if result.baseline and not result.removals), None),
        is_recorded=AS_RECORDED in series(made),
        chips=_chips(made),
        lows=_lows(made),
        policies=_policies(made),
        views=[(view, _images(view)) for view in made.views],
        owners=owners,
        costs=_costs(made, owners, costs),
    )


def _data(made: Study) -> dict[str, Any]:
    specs = {
        "free": charts.free_space_chart(made),
        "tradeoff": charts.trade_off_chart(made),
        "images": charts.images_chart(made),
    }
    begin, end = milliseconds(made.trace, np.array([0.0, made.trace.end]))
    return {
        "begin": begin,
        "end": end,
        "series": series(made),
        "offset": _offset(made),
        "shown": charts.default_series(made),
        "specs": {name: spec for name, spec in specs.items() if spec is not None},
        "free": report_data.free_space(made),
        "marks": report_data.marks(made),
        "gaps": report_data.gaps(made),
        "levels": charts.levels(made),
        "policies": charts.trade_off(made),
        "names": report_data.names_shown(made),
        "stays": report_data.stays_shown(made),
        "uses": [{"image": row["image"], "time": row["time"]} for row in report_data.uses_shown(made)],
    }


def _offset(made: Study) -> int:
    """The first colour is that of the text, and stands for what was recorded."""
    return 0 if AS_RECORDED in series(made) else 1


@dataclass(frozen=True, slots=True)
class Chip:
    """The box of a line: its colour's number, whether it is dashed, shown at first, and not among the rest."""

    name: str
    colour: int
    dashed: bool
    shown: bool
    ahead: bool


def _chips(made: Study) -> list[Chip]:
    """A box for each line; those of policies that are not recommended stand back."""
    shown = charts.default_series(made)
    ahead = {AS_RECORDED, *shown, *(result.name for result in made.results if result.baseline)}
    offset = _offset(made)
    return [
        Chip(name, (k + offset) % _COLOURS, k >= _COLOURS, name in shown, name in ahead)
        for k, name in enumerate(series(made))
    ]


def _lows(made: Study) -> parts.Table:
    """The least free space of each twelfth of the time, for each line that is shown at first."""
    names = charts.default_series(made)
    edges = np.linspace(0.0, made.trace.end, 13)
    lines = {row["series"]: row for row in report_data.free_space(made)}
    rows = []
    for begin, end in itertools.pairwise(edges.tolist()):
        low, high = milliseconds(made.trace, np.array([begin, end]))
        cells = []
        for name in names:
            within = [
                free for at, free in zip(lines[name]["time"], lines[name]["free"], strict=True) if low <= at <= high
            ]
            cells.append(parts.Cell(format_bytes(min(within)) if within else "-"))
        head = parts.Cell(f"from {format_time(made.trace.utc(begin))[:10]}", head=True)
        rows.append(parts.Row([head, *cells]))
    return parts.Table("Lowest free space in each interval", ["interval", *names], rows, sortable=False)


def _policies(made: Study) -> parts.Table:
    columns = parts.columns(made.results)
    rows = []
    for result in made.results:
        chosen = result is made.chosen
        head = parts.Cell(result.name, head=True, tag=parts.tag(made.lineup.proposal, shown=chosen))
        rows.append(parts.Row([head, *parts.figures(columns, result)], chosen))
    return parts.Table("Policies and baselines", ["policy", *parts.heads(columns)], rows, quiet=True)


def _images(view: report_data.View) -> parts.Table:
    rows = [
        parts.Row(
            [
                parts.Cell(row["image"], style="name", head=True),
                parts.bytes_cell(row["bytes"]),
                *(parts.Cell(f"{row[name]:,}", row[name]) for name in ("uses", "repulls")),
                parts.bytes_cell(row["repulled"]),
                *(parts.Cell(format_duration(row[name]), row[name]) for name in ("held", "idle")),
            ]
        )
        for row in view.rows
    ]
    more = f"; {view.rest:,} more are not shown" if view.rest else ""
    heads = ["image", "size", "uses", "re-pulls", "pulled again", "held", "held after the last use"]
    return parts.Table(f"{view.name}{more}", heads, rows)


def _costs(made: Study, kind: str, found: Sequence[report_data.Cost]) -> parts.Table:
    names = list(made.lives)
    most = {name: max((cost.repulled[name] for cost in found), default=0.0) for name in names}
    rows = [
        parts.Row(
            [
                parts.Cell(cost.owner, style="name", head=True),
                parts.Cell(f"{cost.images:,}", cost.images),
                parts.Cell(f"{cost.uses:,.0f}", cost.uses),
                parts.Cell(format_duration(cost.seconds), cost.seconds),
                parts.bytes_cell(cost.first_bytes),
                *(parts.bytes_cell(cost.repulled[name], most[name]) for name in names),
            ]
        )
        for cost in found
    ]
    heads = [kind, "images", "uses", "time in use", "first pulls", *(f"pulled again, {name}" for name in names)]
    return parts.Table(f"Costs by {kind}", heads, rows, quiet=True)
