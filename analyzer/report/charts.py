"""The report's charts, as Vega-Lite specifications that take their data by name.

Colours come from the page, which knows whether it is dark: a specification only says which series is which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from analyzer.report.page_data import LOWEST_SHOWN
from analyzer.report.study import Compared, Row, Study, milliseconds
from pruner.policy.policy import AUTO

Spec = dict[str, Any]

_AXIS = 64
_OURS, _OTHERS = "policy", "baseline"
# Pixels of the trade-off: its height, the widths for which its labels are placed, and what a label and a point take.
_HEIGHT, _WIDTHS = 330, (240, 350, 520, 700, 900, 1150)
_LETTER, _LINE, _AWAY, _DOT = 6.0, 12.0, 13.0, 8.0
_OVER = 20.0  # how far a label may reach over the right edge
# Where a label may stand, the best first.
_SIDES: dict[str, dict[str, Any]] = {
    "above": {"dy": -_AWAY, "baseline": "bottom"},
    "below": {"dy": _AWAY, "baseline": "top"},
    "left": {"dx": -_AWAY, "align": "right", "baseline": "middle"},
    "right": {"dx": _AWAY, "align": "left", "baseline": "middle"},
}
_LINEAR = 2.0**30  # below so many bytes its axis is linear
_WARNING = "#D55E00"


def free_space_chart(made: Study, series: Sequence[str]) -> Spec:
    """Free space over time: what is shown and what was recorded as lines, peers as bands; a brush zooms.

    Args:
        made: the study.
        series: the names of all lines, in the order of their colours; the first is the policy that is shown.
    """
    brush = alt.selection_interval(name="brush", encodings=["x"])
    colour = alt.Color("series:N", scale=alt.Scale(domain=list(series)), legend=None)
    zoomed = alt.Scale(type="utc", domain=brush, nice=False)
    lowest = LOWEST_SHOWN * made.total
    space = alt.Scale(domain=[lowest, made.total], nice=False, clamp=True)
    free = alt.Y("low:Q", scale=space, axis=_bytes_axis("free space", _ticks(lowest, made.total)))
    lines = alt.Chart(alt.NamedData("free"))
    time = alt.X("time:T", scale=zoomed, axis=_time_axis())
    bands = (
        lines.transform_filter("datum.band")
        .mark_area(interpolate="step-after", clip=True)
        .encode(x=time, y=free, y2="high:Q", color=colour, detail="part:N", opacity=alt.value(0.22))
    )
    edges = (
        lines.transform_filter("datum.band")
        .mark_line(interpolate="step-after", strokeWidth=0.8, opacity=0.75, clip=True)
        .encode(x=time, y=free, color=colour, detail="part:N")
    )
    line = (
        lines.transform_filter("!datum.band")
        .mark_line(interpolate="step-after", clip=True)
        .encode(
            x=time,
            y=free,
            color=colour,
            detail="part:N",
            strokeWidth=alt.condition("datum.front", alt.value(2.0), alt.value(1.1)),
        )
    )
    blind = (
        alt.Chart(alt.NamedData("gaps"))
        .mark_rect(opacity=0.18, color="#888888", clip=True)
        .encode(x=alt.X("begin:T", scale=zoomed), x2="end:T")
    )
    full = (
        lines.transform_filter("datum.front && datum.low < 0")
        .mark_point(shape="cross", size=70, angle=45, strokeWidth=1.6, color=_WARNING, clip=True)
        .encode(x=time, y=alt.datum(0))
    )
    levels = alt.Chart(alt.NamedData("levels"))
    floor = levels.mark_rect(opacity=0.14, color=_WARNING).encode(y=alt.Y("bottom:Q"), y2="zero:Q")
    level = levels.transform_filter("isValid(datum.threshold)")
    rule = level.mark_rule(strokeDash=[6, 4], strokeWidth=1.2, color=_WARNING).encode(y="threshold:Q")
    words = [
        level.mark_text(align="left", baseline="top", dx=4, dy=4, fontSize=11, style=style).encode(
            x=alt.value(0), y="threshold:Q", text="text:N"
        )
        for style in ("halo", "words")
    ]
    cursor = (
        alt.Chart(alt.NamedData("cursor"))
        .mark_rule(strokeWidth=1, color="#888888", clip=True)
        .encode(x=alt.X("time:T", scale=zoomed))
    )
    detail = alt.layer(floor, blind, bands, edges, line, full, rule, *words, cursor).properties(
        name="detail", width="container", height=290
    )
    overview = (
        lines.transform_filter("!datum.band")
        .mark_line(interpolate="step-after", strokeWidth=1, clip=True)
        .encode(
            x=alt.X("time:T", scale=_whole(made), axis=_time_axis()),
            y=alt.Y("low:Q", scale=space, axis=_bytes_axis("drag to zoom", [0, made.total])),
            color=colour,
            detail="part:N",
        )
        .add_params(brush)
        .properties(name="overview", width="container", height=52)
    )
    return _spec(alt.vconcat(detail, overview, spacing=8).resolve_scale(color="shared", x="independent"))


def trade_off_chart(made: Compared, most: int | None = None) -> Spec:
    """The bytes of images kept against those pulled again; down is cheaper, and failures are marked with a cross.

    Args:
        made: what is compared.
        most: the most bytes pulled again that the axis has room for; None: what is compared.
    """
    if most is None:
        most = _most(made)
    x = alt.X(
        "shown:Q",
        scale=alt.Scale(domain=[0, made.total], nice=False),
        axis=alt.Axis(title="images kept, on average", values=_ticks(0, made.total), labelExpr="bytes(datum.value)"),
    )
    y = alt.Y(
        "repulled:Q",
        scale=alt.Scale(type="symlog", constant=_LINEAR, domain=[0, _highest(most)], nice=False),
        axis=_bytes_axis("pulled again", _decades(most)),
    )
    kinds = [_marked(made), _OURS, _OTHERS]
    named = kinds if made.chosen is not None else kinds[1:]
    kind = alt.Color("kind:N", scale=alt.Scale(domain=kinds), legend=alt.Legend(title=None, orient="top", values=named))
    shape = alt.Shape(
        "kind:N",
        scale=alt.Scale(domain=kinds, range=["diamond", "circle", "square"]),
        legend=alt.Legend(title=None, values=named),
    )
    current = alt.param(name="current", value=-1)
    base = alt.Chart(alt.NamedData("policies"))
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False, fields=["policy"])
    front = (
        base.transform_filter("datum.joined")
        .mark_line(strokeWidth=1.2, opacity=0.5)
        .encode(x=x, y=y, order="order:Q", color=alt.value("#888888"))
    )
    points = (
        base.mark_point(filled=True, opacity=0.95, strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=kind,
            shape=shape,
            size=alt.condition("datum.chosen", alt.value(260), alt.value(80)),
            stroke=alt.condition(hover, alt.value("#888888"), alt.value("transparent")),
            tooltip=[
                alt.Tooltip("policy:N"),
                _bytes("repulled:Q", "pulled again"),
                _bytes("free:Q", "least free space"),
                alt.Tooltip("full:Q", title="failed pulls", format=","),
                alt.Tooltip("removed:Q", title="removed", format=","),
            ],
        )
        .add_params(hover)
        .properties(name="points")
    )
    here = (
        base.transform_filter("datum.run === current")
        .mark_point(style="ring", size=420, strokeWidth=2)
        .encode(x=x, y=y, shape=alt.value("circle"))
    )
    labels = [
        base.transform_filter(f"isValid(datum.from) && width >= datum.from && datum.side === '{side}'")
        .mark_text(fontSize=11, limit=170, **beside)
        .encode(x=x, y=y, text="label:N")
        for side, beside in _SIDES.items()
    ]
    failing = (
        base.transform_filter("datum.full > 0")
        .mark_point(shape="cross", angle=45, size=150, strokeWidth=1.6, color=_WARNING)
        .encode(x=x, y=y, shape=alt.value("cross"), color=alt.value(_WARNING))
    )
    chart = alt.layer(front, points, failing, here, *labels).add_params(current)
    return _spec(chart.properties(width="container", height=_HEIGHT))


def trade_off(
    made: Compared, most: int | None = None, labels: Sequence[str] = (), first: int | None = None
) -> list[Row]:
    """The points of the trade-off, with labels where they do not hide each other.

    Args:
        made: what is compared.
        most: as for `trade_off_chart`.
        labels: the thresholds of our policies, as one writes them; empty: those of the line-up.
        first: the number of the first policy that is not a baseline, among all that can be shown; None: there is one
            page for these alone.
    """
    rows: list[Row] = []
    thresholds = iter(labels or [str(policy.threshold) for policy in made.lineup.policies])
    ours = 0
    for k, result in enumerate(made.results):
        chosen = result is made.chosen
        kind = _marked(made) if chosen else _OURS
        label = result.name if result.baseline else next(thresholds)
        rows.append(
            {
                "policy": result.name,
                "label": label,
                "kind": _OTHERS if result.baseline else kind,
                "chosen": chosen,
                "repulled": result.repulled_bytes,
                "free": result.min_free,
                "shown": min(result.mean_held_bytes, made.total),
                "full": result.disk_full,
                "removed": result.removals,
                "order": k,
                "joined": not result.baseline and label != AUTO,
            }
        )
        if not result.baseline and first is not None:
            rows[-1]["run"] = first + ours
            ours += 1
    _place_labels(rows, made.total, _most(made) if most is None else most)
    # The chosen one is drawn last, over those at the same place.
    return sorted(rows, key=lambda row: bool(row["chosen"]))


def _place_labels(rows: Sequence[Row], total: int, most: int) -> None:
    """Say of each point the width of the chart from which it is labelled (None: never), and on which side.

    A label covers no other and no point, in pixels of a chart that is just so wide.
    """
    points = [
        (row["shown"] / total, _HEIGHT * (1 - _decade(row["repulled"]) / _decade(_highest(most)))) for row in rows
    ]
    order = sorted(
        range(len(rows)), key=lambda k: (not rows[k]["chosen"], rows[k]["kind"] != _OTHERS, rows[k]["order"])
    )
    placed: dict[int, str] = {}

    def fits(k: int, side: str, width: int) -> bool:
        x, y, wide, _ = box = _label_box(points[k], rows[k]["label"], width, side)
        dots = [(x * width, y, _DOT, _DOT) for x, y in points]
        others = [_label_box(points[n], rows[n]["label"], width, put) for n, put in placed.items()]
        inside = -_LINE < y < _HEIGHT - _LINE and wide < x < width + _OVER - wide
        return inside and not any(_touch(box, other) for other in (*dots, *others))

    for n, width in enumerate(_WIDTHS):
        for k in order:
            # What stands beside a point must be clear of the next one on every wider chart, too.
            free = (side for side in _SIDES if all(fits(k, side, wider) for wider in _WIDTHS[n:]))
            if k not in placed and (side := next(free, None)):
                placed[k] = side
                rows[k]["from"] = 0 if n == 0 else width
    for k, row in enumerate(rows):
        row.setdefault("from", None)
        row["side"] = placed.get(k, "")


# The middle of something on the chart, and how far it reaches from there to either side; pixels.
_Box = tuple[float, float, float, float]


def _label_box(point: tuple[float, float], label: str, width: int, side: str) -> _Box:
    x, y, wide, high = point[0] * width, point[1], _LETTER * (len(label) + 1) / 2, _LINE / 2
    if side in {"above", "below"}:
        return x, y + (-1 if side == "above" else 1) * (_AWAY + high), wide, high
    return x + (-1 if side == "left" else 1) * (_AWAY + wide), y, wide, high


def _touch(a: _Box, b: _Box) -> bool:
    return abs(a[0] - b[0]) < a[2] + b[2] and abs(a[1] - b[1]) < a[3] + b[3]


def _highest(most: int) -> float:
    """The end of the axis of bytes pulled again."""
    return max(most * 1.6, 2.0**31)


def _decade(amount: float) -> float:
    """How far along that axis an amount stands."""
    return math.log1p(amount / _LINEAR)


def _most(made: Compared) -> int:
    return max((result.repulled_bytes for result in made.results), default=0)


def _marked(made: Compared) -> str:
    """What the policy is called that the diamond stands for."""
    return made.lineup.proposal.word


def _bytes(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format="", formatType="bytes")


def levels(total: int) -> list[Row]:
    """Where free space ends, and how far down is drawn, on a disk of `total` bytes."""
    return [{"zero": 0, "bottom": LOWEST_SHOWN * total}]


def _whole(made: Study) -> alt.Scale:
    """From the trace's beginning to its end; as expressions, which are taken as they are."""
    begin, end = milliseconds(made.trace, np.array([0.0, made.trace.end]))
    return alt.Scale(type="utc", domainMin=alt.ExprRef(str(begin)), domainMax=alt.ExprRef(str(end)), nice=False)


def _time_axis() -> alt.Axis:
    """A horizontal axis of UTC times: the day, and between days the hour of 24."""
    return alt.Axis(title=None, labelExpr="day(datum.value)")


def _bytes_axis(title: str, values: list[float]) -> alt.Axis:
    """A vertical axis of bytes, as wide as in every other chart."""
    return alt.Axis(title=title, values=values, labelExpr="bytes(datum.value)", minExtent=_AXIS, maxExtent=_AXIS)


def _ticks(lowest: float, total: float) -> list[float]:
    """Round amounts of space, some five of them."""
    step = _round_binary(total / 6)
    first = -int(-lowest // step)
    return [k * step for k in range(first, int(total // step) + 1)]


def _round_binary(amount: float) -> float:
    """The next 1, 2, 5, 10, 20, 50, 100, 200 or 500 of a binary unit."""
    unit = 1.0
    while amount >= 1000 * unit:
        unit *= 1024
    return next((n * unit for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n * unit >= amount), 1024 * unit)


def _decades(most: float) -> list[float]:
    """Amounts for an axis that goes by powers: 0, 1 GiB, 10 GiB, ..."""
    values = [0.0]
    for amount in (2.0**30, 10 * 2.0**30, 100 * 2.0**30, 2.0**40, 10 * 2.0**40, 100 * 2.0**40, 2.0**50):
        values.append(amount)
        if amount > most:
            break
    return values


def _spec(chart: Any) -> Spec:
    made: Spec = chart.to_dict(validate=True)
    # The page brings the look; what is the same in every chart needs not be said in each.
    made.pop("config", None)
    made.pop("$schema", None)
    return made
