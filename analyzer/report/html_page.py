"""The report as one HTML file that opens anywhere, offline, and asks the network for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.report import charts, parts
from analyzer.report import study as report_data
from analyzer.report.page_data import INTERVALS, Scale, line, pack_json, pack_lines
from analyzer.report.stories import Stays, images_with_story, stories
from analyzer.report.study import AS_RECORDED, Lineup, Study, milliseconds
from analyzer.search.adoption import FirstWeek
from analyzer.search.whatif import THRESHOLD
from analyzer.simulation.figures import Figure
from analyzer.simulation.result import Result
from analyzer.trace.trace import Integers
from collector.model.units import format_bytes, format_duration, format_time
from pruner.policy.file import changes
from pruner.policy.policy import AUTO, Policy

_YEAR_S = 360 * 86400.0
_NEARLY = 0.03
_TWELFTHS = 12
_LEAST_FOLDED = 3
_MOST_REMOVALS = 12
_NO_BREAK = "\N{NO-BREAK SPACE}"


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
    shown = _Shown.of(made)
    view_images = [image for view in made.views for image in view.images]
    removed = [] if made.week is None else made.week.removed.image[_dearest(made.week)].tolist()
    chosen = images_with_story(trace, made.lives, [*view_images, *removed])
    place = {image: k for k, image in enumerate(chosen)}
    by_name = {name: k for image, k in place.items() for name in (*trace.names[image], trace.name(image))}
    return parts.page(
        "report.html",
        _data(made, shown, chosen),
        ("whatif.js", "story.js"),
        made=made,
        shown=shown,
        span=f"{format_time(trace.utc(0.0))} to {format_time(trace.utc(trace.end))}",
        # What the images weighed when they came; nothing of images that were there before.
        first_pulls=min((result.compulsory_bytes for result in made.results), default=0),
        failures=parts.linked(trace.failures, by_name),
        notes=[parts.linked(note, by_name) for note in made.notes],
        is_recorded=report_data.is_recorded(made),
        chips=_chips(made),
        lows=_lows(made),
        policies=_policies(made, shown),
        views=[(view, _images(view, place)) for view in made.views],
        week=_week(made, place),
        owners=owners,
        costs=_costs(made, owners, costs),
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """Texts of each policy that can be shown, and which of them is shown first.

    Attributes:
        runs: headline, summary and figures of each, as HTML.
        first: the number of the first to be shown.
        controls: what can be switched.
        recommended: the number of the recommended policy; None: there is none.
    """

    runs: tuple[dict[str, str], ...]
    first: int
    controls: tuple[_Control, ...]
    recommended: int | None

    @classmethod
    def of(cls, made: Study) -> _Shown:
        """The texts of all of them; one if nothing can be switched."""
        length = "a year" if abs(made.trace.end - _YEAR_S) < _NEARLY * _YEAR_S else format_duration(made.trace.end)
        if made.tried is None:
            return cls((_texts(made, made.chosen, length, recommended=True),), 0, (), None)
        whatif = made.tried.whatif
        known = made.lineup.proposal.policy is not None
        runs = tuple(
            _texts(made, result, length, item.policy, recommended=known and k == whatif.place)
            for k, (item, result) in enumerate(zip(whatif.candidates, made.tried.results, strict=True))
        )
        controls = tuple(
            _Control(k, setting.key, _LABELS[setting.key], setting.values, whatif.start[k], known)
            for k, setting in enumerate(whatif.settings)
        )
        return cls(runs, whatif.place, controls, whatif.place if known else None)


@dataclass(frozen=True, slots=True)
class _Control:
    """What switches one setting: its number, key and label, its values, the one shown first, whether that is marked."""

    number: int
    key: str
    label: str
    values: tuple[str, ...]
    first: int
    marked: bool

    @property
    def slider(self) -> bool:
        """Whether it is a slider and not a choice."""
        return self.key == THRESHOLD


_LABELS = {
    "threshold": "Prune below this much free space",
    "order": "Which images go first",
    "min_age": "Spare images used or pulled within",
    "local_images": "Images that exist only on this host",
    "allowlist": "Allowlist",
    "trigger": "What starts a prune",
}


def _texts(
    made: Study, result: Result | None, length: str, policy: Policy | None = None, *, recommended: bool
) -> dict[str, str]:
    never = next((one for one in made.results if one.baseline and not one.removals), None)
    return {
        "head": parts.macro("report_headline", made, result, length),
        "lead": parts.macro("report_lead", made, result, never, recommended),
        "cards": "" if result is None else parts.macro("cards", result, made.rival, _CARDS),
        "name": "" if result is None else result.name.partition(",")[0],
        "toml": "" if policy is None else changes(policy) or "# the defaults",
    }


_CARDS = (
    ("disk_full", "failed pulls"),
    ("repulled_bytes", "pulled again"),
    ("min_free", "least free space"),
    ("hit_ratio", "of uses found their image"),
)


def _data(made: Study, shown: _Shown, chosen: Sequence[int]) -> dict[str, Any]:
    scale, word = Scale.of(made.total), made.lineup.proposal.word
    lines = dict(_lines(made, scale))
    begin, end = milliseconds(made.trace, np.array([0.0, made.trace.end]))
    lives: dict[str, Stays] = {} if made.recorded.presence is None else {AS_RECORDED: made.recorded.presence}
    lives |= made.lives
    tried = [] if made.tried is None else made.tried.rows
    most = max((result.repulled_bytes for row in (*tried, made.results) for result in row), default=0)
    rows = []
    for k, results in enumerate(tried):
        view = _row_of(made, results, k)
        rows.append(
            {
                "body": parts.macro("body", _folded(made, results, k, _figures_shown(made))),
                "points": charts.trade_off(view, most, _thresholds(made), k * len(results)),
            }
        )
    thresholds = (
        []
        if made.tried is None
        else [
            result.threshold if item.policy.threshold.unit != AUTO else None
            for item, result in zip(made.tried.whatif.candidates, made.tried.results, strict=True)
        ]
    )
    return {
        "begin": begin,
        "end": end,
        "scale": {"lowest": scale.lowest, "step": scale.step, "count": INTERVALS},
        "specs": {
            "free": charts.free_space_chart(made, [_THIS, *lines]),
            "tradeoff": charts.trade_off_chart(made, most),
        },
        "series": [_THIS, *lines],
        "colours": _colours([_THIS, *lines]),
        "bands": [name for name in lines if name not in {AS_RECORDED, word}],
        "sizes": [len(control.values) for control in shown.controls],
        "first": shown.first,
        "recommended": shown.recommended,
        "word": word,
        "gaps": report_data.gaps(made),
        "levels": charts.levels(made),
        "policies": charts.trade_off(made, most),
        "lines": pack_lines([*lines.values(), *(() if made.tried is None else made.tried.lines)]),
        "texts": pack_json({"runs": shown.runs, "rows": rows, "thresholds": thresholds}),
        "stories": pack_json(stories(made.trace, lives, made.recorded.projects or {}, chosen)),
        "rate": made.results[0].pull_rate if made.results else 0,
    }


_THIS = "shown"
# The page's colours by number: that of the text is what was recorded, the next what is shown.
_RESERVED = {AS_RECORDED: 0, _THIS: 1, "recommended": 3, "comes closest": 3}
_OTHERS = (2, 4, 5, 6)


def _colours(names: Sequence[str]) -> list[int]:
    """The number of each line's colour."""
    others = itertools.cycle(_OTHERS)
    return [_RESERVED[name] if name in _RESERVED else next(others) for name in names]


def _lines(made: Study, scale: Scale) -> Iterator[tuple[str, Integers]]:
    """The lines beside that of the policy that is shown, by name: recorded, recommended, baselines."""
    if report_data.is_recorded(made):
        yield AS_RECORDED, line(scale, made.recorded.seconds, made.recorded.free, made.trace.end)
    if made.chosen is not None:
        yield made.lineup.proposal.word, report_data.free_line(made.trace, scale, made.chosen)
    for result in made.results:
        if result.baseline:
            yield result.name, report_data.free_line(made.trace, scale, result)


@dataclass(frozen=True, slots=True)
class _OneRow:
    """Baselines, and policies that differ in the threshold alone; see `charts.Compared`."""

    results: Sequence[Result]
    chosen: Result | None
    lineup: Lineup
    total: int


def _row_of(made: Study, results: Sequence[Result], number: int) -> _OneRow:
    own = [*(result for result in made.results if result.baseline), *results]
    return _OneRow(own, _recommended(made, results, number), made.lineup, made.total)


def _recommended(made: Study, results: Sequence[Result], number: int) -> Result | None:
    """The recommended policy's result, if it is one of this row."""
    if made.tried is None or made.lineup.proposal.policy is None:
        return None
    row, at = divmod(made.tried.whatif.place, len(results))
    return results[at] if row == number else None


@dataclass(frozen=True, slots=True)
class Chip:
    """The box of a line: its name, its colour's number, and whether it is shown at first."""

    name: str
    colour: int
    shown: bool


def _chips(made: Study) -> list[Chip]:
    """A box for each line to compare with."""
    rival = "" if made.rival is None else made.rival.name
    names = [name for name, _ in _lines(made, Scale.of(made.total))]
    return [
        Chip(name, colour, name in {AS_RECORDED, made.lineup.proposal.word, rival})
        for name, colour in zip(names, _colours(names), strict=True)
    ]


def _lows(made: Study) -> parts.Table:
    """The least free space of each twelfth of the time; the page's script fills in the policy that is shown."""
    scale = Scale.of(made.total)
    first = None if made.tried is None else made.tried.lines[made.tried.whatif.place]
    lines = {**({} if first is None else {_THIS: first}), **dict(_lines(made, scale))}
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


def _policies(made: Study, shown: _Shown) -> parts.Table:
    columns = _figures_shown(made)
    rows = [
        parts.Row([parts.Cell(result.name, head=True), *parts.figures(columns, result)])
        for result in made.results
        if result.baseline
    ]
    if made.tried is None:
        ours = [result for result in made.results if not result.baseline]
        rows += [_policy_row(made, result, result is made.chosen, None, columns) for result in ours]
    else:
        number = shown.first // made.tried.whatif.thresholds
        rows += _folded(made, made.tried.rows[number], number, columns).rows
    return parts.Table("Policies and baselines", ["policy", *parts.heads(columns)], rows, quiet=True, name="policies")


def _figures_shown(made: Study) -> dict[str, Figure]:
    return parts.columns([*made.results, *(() if made.tried is None else made.tried.results)])


def _policy_row(
    made: Study, result: Result, chosen: bool, run: int | None, columns: Mapping[str, Figure], *, folded: bool = False
) -> parts.Row:
    head = parts.Cell(result.name.partition(",")[0], head=True, tag=parts.tag(made.lineup.proposal, shown=chosen))
    return parts.Row([head, *parts.figures(columns, result)], chosen, run, folded)


def _folded(made: Study, results: Sequence[Result], number: int, columns: Mapping[str, Figure]) -> parts.Table:
    """A row for each policy; neighbours that cost the same stand behind one row."""
    chosen = _recommended(made, results, number)
    rows: list[parts.Row] = []
    first = number * len(results)
    for cost, group in itertools.groupby(enumerate(results), key=lambda item: (_cost(item[1]), item[1] is chosen)):
        same = list(group)
        folded = len(same) >= _LEAST_FOLDED and not cost[1]
        if folded:
            labels = [_thresholds(made)[k] for k, _ in same]
            rows.append(_fold([result for _, result in same], labels, columns))
        rows += [_policy_row(made, result, result is chosen, first + k, columns, folded=folded) for k, result in same]
    return parts.Table("", [], rows)


def _cost(result: Result) -> tuple[int, ...]:
    return (result.disk_full, result.repulls, result.repulled_bytes, result.losses, result.emergency_removals)


def _thresholds(made: Study) -> Sequence[str]:
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


def _dearest(week: FirstWeek) -> Integers:
    """Which removals of a week are listed: those that free most."""
    return np.argsort(-week.removed.freed, kind="stable")[:_MOST_REMOVALS]


def _week(made: Study, place: Mapping[int, int]) -> parts.Table | None:
    """The largest removals of the first week."""
    week = made.week
    if week is None:
        return None
    trace = made.trace
    rows = []
    for k in _dearest(week).tolist():
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


def _images(view: report_data.View, place: Mapping[int, int]) -> parts.Table:
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
