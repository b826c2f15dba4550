"""The report's charts, as Vega-Lite specifications that take their data by name.

Colours come from the page, which knows whether it is dark: a specification only says which series is which.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import altair as alt
import numpy as np

from analyzer.report import study
from analyzer.report.study import AS_RECORDED, Lineup, Study, milliseconds, series
from analyzer.simulation.result import Result
from collector.model.units import format_bytes

Spec = dict[str, Any]

_LOWEST_SHOWN = -0.15
_AXIS = 64
_OURS, _OTHERS = "policy", "baseline"
_COLOURS = 7
# Where a label stands beside its point, how it is aligned there, and how far away it begins.
_SIDES: tuple[tuple[str, Literal["left", "right"], int], ...] = (("left", "right", -11), ("right", "left", 11))


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


def free_space_chart(made: Study) -> Spec:
    """Free space over time with its threshold, prunes, gaps and full disks; a brush on the overview zooms."""
    names = series(made)
    shown = alt.param(name="shown", value=default_series(made))
    brush = alt.selection_interval(name="brush", encodings=["x"])
    hover = alt.selection_point(name="hover", nearest=True, on="pointermove", clear="pointerout", empty=False)
    colour = alt.Color("series:N", scale=alt.Scale(domain=names), legend=None)
    dash = alt.StrokeDash(
        "series:N",
        scale=alt.Scale(domain=names, range=[[1, 0] if k < _COLOURS else [5, 3] for k in range(len(names))]),
        legend=None,
    )
    zoomed = alt.X("time:T", scale=alt.Scale(type="utc", domain=brush, nice=False), axis=_time_axis())
    lowest = _LOWEST_SHOWN * made.total
    free = alt.Y(
        "free:Q",
        scale=alt.Scale(domain=[lowest, made.total], nice=False, clamp=True),
        axis=_bytes_axis("free space", _ticks(lowest, made.total)),
    )
    lines = alt.Chart(alt.NamedData("free")).transform_filter("indexof(shown, datum.series) >= 0")
    tooltip = [
        _when("time:T", "time (UTC)"),
        alt.Tooltip("series:N", title="policy"),
        _bytes("free:Q", "free"),
    ]
    # What the chart is about stands in front of what it is compared with.
    front = f"indexof({json.dumps(_front(made))}, datum.series) >= 0"
    behind = (
        lines.transform_filter(f"!({front})")
        .mark_line(interpolate="step-after", strokeWidth=1.2, opacity=0.6, clip=True)
        .encode(x=zoomed, y=free, color=colour, strokeDash=dash)
    )
    line = (
        lines.transform_filter(front)
        .mark_line(interpolate="step-after", strokeWidth=1.8, clip=True)
        .encode(x=zoomed, y=free, color=colour, strokeDash=dash)
    )
    points = lines.mark_point(opacity=0, size=60, clip=True).encode(x=zoomed, y=free, tooltip=tooltip).add_params(hover)
    found = (
        lines.mark_point(filled=True, size=70, clip=True)
        .encode(x=zoomed, y=free, color=colour, tooltip=tooltip)
        .transform_filter(hover)
    )
    blind = (
        alt.Chart(alt.NamedData("gaps"))
        .mark_rect(opacity=0.18, color="#888888", clip=True)
        .encode(
            x=alt.X("begin:T", scale=alt.Scale(type="utc", domain=brush, nice=False)),
            x2="end:T",
            tooltip=[_when("begin:T", "not observed from"), _when("end:T", "until")],
        )
    )
    levels = alt.Chart(alt.NamedData("levels"))
    full = levels.mark_rect(opacity=0.14, color="#D55E00").encode(y=alt.Y("bottom:Q"), y2="zero:Q")
    rule = levels.mark_rule(strokeDash=[6, 4], strokeWidth=1.2, color="#D55E00").encode(y="threshold:Q")
    words = [
        levels.mark_text(align="left", baseline="top", dx=4, dy=4, fontSize=11, style=style).encode(
            x=alt.value(0), y="threshold:Q", text="text:N"
        )
        for style in ("halo", "words")
    ]
    detail = alt.layer(full, blind, behind, line, rule, *words, points, found).properties(
        name="detail", width="container", height=280
    )
    acts = (
        alt.Chart(alt.NamedData("marks"))
        .transform_filter("indexof(shown, datum.series) >= 0")
        .mark_point(filled=False, clip=True)
        .encode(
            x=alt.X("time:T", scale=alt.Scale(type="utc", domain=brush, nice=False), axis=None),
            y=alt.Y("series:N", sort=names, axis=alt.Axis(title=None, labels=False, ticks=False, domain=False)),
            color=colour,
            shape=alt.Shape(
                "what:N", scale=alt.Scale(domain=["prune", "disk full"], range=["stroke", "cross"]), legend=None
            ),
            size=alt.condition("datum.what == 'prune'", alt.value(70), alt.value(110)),
            angle=alt.condition("datum.what == 'prune'", alt.value(90), alt.value(45)),
            tooltip=[
                alt.Tooltip("what:N", title="what"),
                alt.Tooltip("series:N", title="policy"),
                _when("time:T", "time (UTC)"),
            ],
        )
        .properties(name="acts", width="container", height=alt.Step(14))
    )
    overview = (
        lines.mark_line(interpolate="step-after", strokeWidth=1, clip=True)
        .encode(
            x=alt.X("time:T", scale=_whole(made), axis=_time_axis()),
            y=alt.Y(
                "free:Q",
                scale=alt.Scale(domain=[lowest, made.total], nice=False, clamp=True),
                axis=_bytes_axis("drag to zoom", [0, made.total]),
            ),
            color=colour,
        )
        .add_params(brush)
        .properties(name="overview", width="container", height=56)
    )
    chart = (
        alt.vconcat(detail, acts, overview, spacing=8).add_params(shown).resolve_scale(color="shared", x="independent")
    )
    return _spec(chart)


def default_series(made: Study) -> list[str]:
    """The lines that are shown at first: what was, what should be, and the baselines."""
    wanted = {AS_RECORDED, *(result.name for result in (made.chosen, made.rival) if result is not None)}
    return [name for name in series(made) if name in wanted]


def _front(made: Study) -> list[str]:
    """The lines that are drawn over the others."""
    return [AS_RECORDED] + ([made.chosen.name] if made.chosen is not None else [])


def trade_off_chart(made: Compared) -> Spec:
    """Re-pulled bytes against the least free space; down is fuller, right is more traffic."""
    lowest = _LOWEST_SHOWN * made.total
    most = max((result.repulled_bytes for result in made.results), default=0)
    x = alt.X(
        "repulled:Q",
        scale=alt.Scale(type="symlog", constant=2**30, domain=[0, max(most * 1.6, 2**31)], nice=False),
        axis=alt.Axis(title="pulled again", values=_decades(most), labelExpr="bytes(datum.value)"),
    )
    y = alt.Y(
        "shown:Q",
        scale=alt.Scale(domain=[lowest, made.total], nice=False),
        axis=_bytes_axis("least free space", _ticks(lowest, made.total)),
    )
    kinds = [_marked(made), _OURS, _OTHERS]
    kind = alt.Color("kind:N", scale=alt.Scale(domain=kinds), legend=alt.Legend(title=None, orient="top"))
    shape = alt.Shape(
        "kind:N", scale=alt.Scale(domain=kinds, range=["diamond", "circle", "square"]), legend=alt.Legend(title=None)
    )
    base = alt.Chart(alt.NamedData("policies"))
    hover = alt.selection_point(name="hover", on="pointerover", clear="pointerout", empty=False, fields=["policy"])
    front = (
        base.transform_filter("datum.joined")
        .mark_line(strokeWidth=1, strokeDash=[3, 3], opacity=0.6)
        .encode(x=x, y=y, order="order:Q", color=alt.value("#888888"))
    )
    points = (
        base.mark_point(filled=True, opacity=0.95, strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=kind,
            shape=shape,
            size=alt.condition("datum.chosen", alt.value(280), alt.value(90)),
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
    rings = (
        base.transform_filter("datum.best")
        .mark_point(style="ring", size=190, strokeWidth=1.4)
        .encode(x=x, y=y, shape=alt.value("circle"))
    )
    roomy = "(width > 520 || datum.chosen)"  # on a phone labels would hide each other
    left, right = (
        base.transform_filter(f"datum.side == '{side}' && {roomy}")
        .mark_text(align=align, dx=dx, baseline="middle", fontSize=11, limit=170)
        .encode(x=x, y=y, text="label:N")
        for side, align, dx in _SIDES
    )
    zero = (
        alt.Chart(alt.NamedData("levels"))
        .mark_rect(opacity=0.14, color="#D55E00")
        .encode(y=alt.Y("bottom:Q"), y2="zero:Q")
    )
    return _spec(alt.layer(zero, front, rings, points, left, right).properties(width="container", height=360))


def trade_off(made: Compared) -> list[study.Row]:
    """The points of the trade-off, with labels where they do not hide each other."""
    lowest = _LOWEST_SHOWN * made.total
    rows: list[study.Row] = []
    best = _front_names(made.results)
    for k, result in enumerate(made.results):
        chosen = result is made.chosen
        ours = _marked(made) if chosen else _OURS
        rows.append(
            {
                "policy": result.name,
                "label": result.name.partition(",")[0],
                "kind": _OTHERS if result.baseline else ours,
                "chosen": chosen,
                "best": result.name in best,
                "repulled": result.repulled_bytes,
                "free": result.min_free,
                "shown": max(result.min_free, lowest * 0.9),
                "full": result.disk_full,
                "removed": result.removals,
                "order": k,
                "joined": not result.baseline and not (made.lineup.apart and chosen),
            }
        )
        if result.min_free < lowest:
            rows[-1]["label"] += f" ({format_bytes(result.min_free)})"
    most = max((row["repulled"] for row in rows), default=0)
    placed: list[tuple[bool, float]] = []
    for row in sorted(rows, key=lambda row: (not row["chosen"], row["order"])):
        right = row["repulled"] < 0.02 * most or most == 0
        crowded = any(side == right and abs(at - row["shown"]) < 0.045 * made.total for side, at in placed)
        row["side"] = "" if crowded else "right" if right else "left"
        if not crowded:
            placed.append((right, row["shown"]))
    # The chosen one is drawn last, over those at the same place.
    return sorted(rows, key=lambda row: bool(row["chosen"]))


def _marked(made: Compared) -> str:
    """What the policy is called that the diamond stands for."""
    return made.lineup.proposal.word


def _front_names(results: Sequence[Result]) -> set[str]:
    """Our policies of which none pulls less again and leaves as much space, nor as little and leaves more."""
    front: set[str] = set()
    most = -math.inf
    ours = [result for result in results if not result.baseline]
    for _, same in itertools.groupby(
        sorted(ours, key=lambda result: result.repulled_bytes), key=lambda result: result.repulled_bytes
    ):
        here = list(same)
        free = max(result.min_free for result in here)
        if free > most:
            most = free
            front |= {result.name for result in here if result.min_free == free}
    return front


def images_chart(made: Study) -> Spec | None:
    """Presence and use of the most instructive images, one row each; None if there are none."""
    shown = made.views
    if not shown:
        return None
    rows = max(len(view.images) for view in shown)
    view = alt.param(name="view", value=shown[0].name)
    x = alt.X("begin:T", scale=_whole(made), axis=_time_axis())
    row = alt.Y("rank:O", scale=alt.Scale(domain=list(range(rows))), axis=None)
    chosen = "datum.view == view"
    names = (
        alt.Chart(alt.NamedData("names"))
        .transform_filter(chosen)
        .mark_text(align="left", baseline="middle", dy=-10, fontSize=11, limit=alt.ExprRef("width"))
        .encode(x=alt.value(0), y=row, text="label:N", tooltip="image:N")
    )
    bars = (
        alt.Chart(alt.NamedData("stays"))
        .transform_filter(chosen)
        .mark_bar(height=9, yOffset=6, opacity=0.45)
        .encode(
            x=x,
            x2="end:T",
            y=row,
            color=alt.Color("kind:N", scale=alt.Scale(domain=["held", "used", "pulled again"]), legend=None),
            tooltip=[
                alt.Tooltip("image:N"),
                _when("begin:T", "there from (UTC)"),
                _when("end:T", "until"),
                alt.Tooltip("pulls:Q", title="times pulled again", format=","),
            ],
        )
        .transform_calculate(kind="'held'")
    )
    ticks = (
        alt.Chart(alt.NamedData("uses"))
        .transform_filter(chosen)
        .transform_calculate(kind="'used'")
        .mark_tick(height=9, thickness=1, yOffset=6, orient="vertical")
        .encode(x=alt.X("time:T"), y=row, color=alt.Color("kind:N"))
    )
    pulls = (
        alt.Chart(alt.NamedData("stays"))
        .transform_filter(f"{chosen} && datum.pulls > 0")
        .transform_calculate(kind="'pulled again'")
        .mark_point(shape="triangle-up", filled=True, size=26, yOffset=15, opacity=0.9)
        .encode(x=alt.X("begin:T"), y=row, color=alt.Color("kind:N"))
    )
    chart = alt.layer(bars, ticks, pulls, names).add_params(view)
    return _spec(chart.properties(width="container", height=40 * rows))


def _bytes(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format="", formatType="bytes")


def _when(field: str, title: str) -> alt.Tooltip:
    return alt.Tooltip(field, title=title, format="", formatType="when")


def levels(made: Compared) -> list[study.Row]:
    """The recommended policy's threshold, and where free space ends."""
    row: study.Row = {"zero": 0, "bottom": _LOWEST_SHOWN * made.total}
    if made.chosen is not None:
        row |= {
            "threshold": made.chosen.threshold,
            "text": f"threshold: {format_bytes(made.chosen.threshold)}",
        }
    return [row]


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
