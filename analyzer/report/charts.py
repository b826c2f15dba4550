"""The report's charts, as Vega-Lite specifications that take their data by name.

Colours come from the page, which knows whether it is dark: a specification only says which series is which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import altair as alt
import numpy as np

from analyzer.report.page_data import LOWEST_SHOWN
from analyzer.report.study import Lineup, Row, Study, milliseconds
from analyzer.simulation.result import Result
from pruner.policy.policy import AUTO

Spec = dict[str, Any]

_AXIS = 64
_OURS, _OTHERS = "policy", "baseline"
# How far labels are apart, as shares of the axis, and how wide a chart must be to have those of each row of distances.
_APART = ((0.1, 0), (0.045, 520))
_LEVEL = 0.2  # decades of bytes within which labels stand on one line
_WARNING = "#D55E00"


class Compared(Protocol):
    """Policies compared on one disk: all that the trade-off shows. A `Study` is one."""

    @property
    def results(self) -> Sequence[Result]:
        """Baselines, then our policies."""

    @property
    def chosen(self) -> Result | None:
        """The recommended policy's result."""

    @property
    def lineup(self) -> Lineup:
        """Our policies, and which of them is recommended."""

    @property
    def total(self) -> int:
        """Bytes of the disk."""


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
    """The bytes of images kept against those pulled again; down is cheaper, and what fails bears a cross.

    Args:
        made: what is compared.
        most: the most bytes pulled again that the axis has room for; None: what is compared.
    """
    if most is None:
        most = max((result.repulled_bytes for result in made.results), default=0)
    x = alt.X(
        "shown:Q",
        scale=alt.Scale(domain=[0, made.total], nice=False),
        axis=alt.Axis(title="images kept, on average", values=_ticks(0, made.total), labelExpr="bytes(datum.value)"),
    )
    y = alt.Y(
        "repulled:Q",
        scale=alt.Scale(type="symlog", constant=2**30, domain=[0, max(most * 1.6, 2**31)], nice=False),
        axis=_bytes_axis("pulled again", _decades(most)),
    )
    kinds = [_marked(made), _OURS, _OTHERS]
    kind = alt.Color("kind:N", scale=alt.Scale(domain=kinds), legend=alt.Legend(title=None, orient="top"))
    shape = alt.Shape(
        "kind:N", scale=alt.Scale(domain=kinds, range=["diamond", "circle", "square"]), legend=alt.Legend(title=None)
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
    # A label stands over its point; where that is the axis below, the point is cut in half otherwise.
    labels = (
        base.transform_filter("isValid(datum.from) && width >= datum.from")
        .mark_text(dy=-13, baseline="bottom", fontSize=11, limit=170)
        .encode(x=x, y=y, text="label:N")
    )
    failing = (
        base.transform_filter("datum.full > 0")
        .mark_point(shape="cross", angle=45, size=150, strokeWidth=1.6, color=_WARNING)
        .encode(x=x, y=y, shape=alt.value("cross"), color=alt.value(_WARNING))
    )
    chart = alt.layer(front, points, failing, here, labels).add_params(current)
    return _spec(chart.properties(width="container", height=330))


def trade_off(made: Compared, labels: Sequence[str] = (), first: int | None = None) -> list[Row]:
    """The points of the trade-off, with labels where they do not hide each other.

    Args:
        made: what is compared.
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
    _place_labels(rows, made.total)
    # The chosen one is drawn last, over those at the same place.
    return sorted(rows, key=lambda row: bool(row["chosen"]))


def _place_labels(rows: Sequence[Row], total: int) -> None:
    """Say of each point from which width of the chart on it bears its label; None: never."""
    placed: list[tuple[float, float, float]] = []
    for row in sorted(rows, key=lambda row: (not row["chosen"], row["kind"] != _OTHERS, row["order"])):
        row["from"] = None
        x, y = row["shown"] / total, math.log10(1 + row["repulled"] / 2**30)
        width = 0.006 * len(row["label"])
        for apart, least in _APART:
            if all(abs(y - v) > _LEVEL or abs(x - u) > max(apart, width + w) for u, v, w in placed):
                row["from"] = least
                placed.append((x, y, width))
                break


def _marked(made: Compared) -> str:
    """What the policy is called that the diamond stands for."""
    return made.lineup.proposal.word


def _bytes(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format="", formatType="bytes")


def levels(made: Compared) -> list[Row]:
    """Where free space ends, and how far down is drawn."""
    return [{"zero": 0, "bottom": LOWEST_SHOWN * made.total}]


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
