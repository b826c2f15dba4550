"""The tables of the report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from analyzer.report import parts
from analyzer.report import study as report_data
from analyzer.report.page_data import INTERVALS, Scale
from analyzer.report.page_lines import THIS, lines_beside
from analyzer.report.study import Study
from analyzer.search.adoption import FirstWeek
from analyzer.simulation.figures import Figure
from analyzer.simulation.result import Result
from analyzer.trace.trace import Integers
from collector.model.units import format_bytes, format_duration, format_time

_TWELFTHS = 12
_LEAST_FOLDED = 3
_MOST_REMOVALS = 12
_NO_BREAK = "\N{NO-BREAK SPACE}"


def lows(made: Study) -> parts.Table:
    """The least free space of each twelfth of the time; the page's script fills in the policy that is shown."""
    scale = Scale.of(made.total)
    first = None if made.tried is None else made.tried.lines[made.tried.whatif.place]
    lines = {**({} if first is None else {THIS: first}), **dict(lines_beside(made, scale))}
    rows = []
    for k in range(_TWELFTHS):
        begin, end = k * INTERVALS // _TWELFTHS, (k + 1) * INTERVALS // _TWELFTHS
        cells = []
        for found in lines.values():
            low = int(found[0, begin:end].min())
            cells.append(parts.Cell("-" if low > scale.steps_most else format_bytes(scale.lowest + low * scale.step)))
        at = made.trace.utc(made.trace.end * k / _TWELFTHS)
        rows.append(parts.Row([parts.Cell(f"from {format_time(at)[:10]}", head=True), *cells]))
    return parts.Table("Lowest free space in each interval", ["interval", *lines], rows, sortable=False, name="lows")


def policies(made: Study, first: int) -> parts.Table:
    """Baselines and policies; `first` is the number of the one that is shown first."""
    columns = figures_shown(made)
    rows = [
        parts.Row([parts.Cell(result.name, head=True), *parts.figures(columns, result)])
        for result in made.results
        if result.baseline
    ]
    if made.tried is None:
        ours = [result for result in made.results if not result.baseline]
        rows += [_policy_row(made, result, result is made.chosen, None, columns) for result in ours]
    else:
        number = first // made.tried.whatif.thresholds
        rows += folded_rows(made, made.tried.rows[number], number, columns).rows
    return parts.Table("Policies and baselines", ["policy", *parts.heads(columns)], rows, quiet=True, name="policies")


def figures_shown(made: Study) -> dict[str, Figure]:
    """The columns of the table of policies."""
    return parts.columns([*made.results, *(() if made.tried is None else made.tried.results)])


def _policy_row(
    made: Study, result: Result, chosen: bool, run: int | None, columns: Mapping[str, Figure], *, folded: bool = False
) -> parts.Row:
    head = parts.Cell(result.name.partition(",")[0], head=True, tag=made.lineup.proposal.word if chosen else "")
    return parts.Row([head, *parts.figures(columns, result)], chosen, run, folded)


def folded_rows(made: Study, results: Sequence[Result], number: int, columns: Mapping[str, Figure]) -> parts.Table:
    """A row for each policy; neighbours that cost the same stand behind one row."""
    chosen = recommended(made, results, number)
    rows: list[parts.Row] = []
    first = number * len(results)
    for cost, group in itertools.groupby(enumerate(results), key=lambda item: (_cost(item[1]), item[1] is chosen)):
        same = list(group)
        folded = len(same) >= _LEAST_FOLDED and not cost[1]
        if folded:
            labels = [thresholds_of(made)[k] for k, _ in same]
            rows.append(_fold([result for _, result in same], labels, columns))
        rows += [_policy_row(made, result, result is chosen, first + k, columns, folded=folded) for k, result in same]
    return parts.Table("", [], rows)


def _cost(result: Result) -> tuple[int, ...]:
    return (result.disk_full, result.repulls, result.repulled_bytes, result.losses, result.emergency_removals)


def thresholds_of(made: Study) -> Sequence[str]:
    """The thresholds that can be switched, as one writes them."""
    return () if made.tried is None else made.tried.whatif.settings[-1].values


def _fold(same: Sequence[Result], labels: Sequence[str], columns: Mapping[str, Figure]) -> parts.Row:
    """The row that stands for several: the range of each figure."""
    cells = [parts.Cell(f"{len(same)} alike, {labels[0]} to {labels[-1]}", head=True, opens=len(same))]
    for name, figure in columns.items():
        values = sorted(getattr(result, name) for result in same)
        texts = list(dict.fromkeys(figure.text(value) for value in (values[0], values[-1])))
        cells.append(
            parts.Cell("\N{EN DASH}".join(texts), values[0], "bad" if figure.bad_if_any and values[-1] else "range")
        )
    return parts.Row(cells)


def dearest(week: FirstWeek) -> Integers:
    """Which removals of a week are listed: those that free most."""
    return np.argsort(-week.removed.freed, kind="stable")[:_MOST_REMOVALS]


def week_table(made: Study, place: Mapping[int, int]) -> parts.Table | None:
    """The largest removals of the first week."""
    week = made.week
    if week is None:
        return None
    trace = made.trace
    rows = []
    for k in dearest(week).tolist():
        image, at = int(week.removed.image[k]), float(week.removed.time[k])
        own = trace.time[trace.image == image]
        before, after = own[own <= at], own[own > at]
        rows.append(
            parts.Row(
                [
                    parts.Cell(trace.name(image), style="name", head=True, story=place.get(image)),
                    parts.bytes_cell(float(week.removed.freed[k])),
                    parts.Cell(format_time(trace.utc(at))[:16], at),
                    parts.Cell(format_duration(at - before[-1]) if len(before) else "-", at),
                    parts.Cell("no" if not len(after) else f"after {format_duration(after[0] - at)}"),
                ]
            )
        )
    rest = len(week.removed) - len(rows)
    caption = f"The largest removals of the week; {rest:,} more are not shown" if rest else "The removals of the week"
    return parts.Table(caption, ["image", "frees", "removed (UTC)", "unused for", "used again"], rows)


def images_table(view: report_data.View, place: Mapping[int, int]) -> parts.Table:
    """Images as one view ranks them; `place` says which have a story."""
    rows = [
        parts.Row(
            [
                parts.Cell(row["image"], style="name", head=True, story=place.get(image)),
                parts.bytes_cell(row["bytes"]),
                *(parts.Cell(f"{row[name]:,}", row[name]) for name in ("uses", "repulls")),
                parts.bytes_cell(row["repulled"]),
                *(parts.Cell(format_duration(row[name]), row[name]) for name in ("held", "idle")),
            ]
        )
        for image, row in zip(view.images, view.rows, strict=True)
    ]
    more = f"; {view.rest:,} more are not shown" if view.rest else ""
    heads = [
        "image",
        "size",
        "uses",
        "re-pulls",
        "pulled again",
        "held",
        f"held after{_NO_BREAK}the last{_NO_BREAK}use",
    ]
    return parts.Table(f"{view.name}{more}", heads, rows)


def costs_table(made: Study, kind: str, found: Sequence[report_data.Cost]) -> parts.Table:
    """What each owner of a kind cost."""
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


def recommended(made: Study, results: Sequence[Result], number: int) -> Result | None:
    """The recommended policy's result, if it is one of this row."""
    if made.tried is None or made.lineup.proposal.policy is None:
        return None
    row, at = divmod(made.tried.whatif.place, len(results))
    return results[at] if row == number else None
