"""The report as one HTML file that opens anywhere, offline, and asks the network for nothing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from analyzer.report import charts, parts
from analyzer.report import study as report_data
from analyzer.report.study import AS_RECORDED, Study, milliseconds, series
from collector.model.units import format_bytes, format_count, format_duration, format_time

_YEAR_S = 360 * 86400.0
_COLOURS = 7  # as many are told apart; further lines are dashed


def write_report(made: Study, path: Path) -> None:
    """Write the report of a study.

    Raises:
        ReportError: the file cannot be written.
    """
    parts.write(render(made), path)


def render(made: Study) -> str:
    """The report of a study as HTML. What comes from the log is escaped wherever it stands."""
    trace = made.trace
    library = parts.library()
    script = parts.part("report.js")
    owners, costs = report_data.costs(made)
    return Template(parts.part("report.html")).substitute(
        hashes=f"{parts.script_hash(library)} {parts.script_hash(script)}",
        version=escape(version("docker-hindsight")),
        host=escape(trace.host),
        style=parts.part("report.css"),
        story=_story(made),
        span=f"{format_time(trace.utc(0.0))} to {format_time(trace.utc(trace.end))}",
        uses=format_count(trace.demands, "use"),
        images=format_count(trace.images, "image"),
        compulsory=_first_pulls(made),
        total=parts.size(made.total),
        verdict=_verdict(made),
        why=parts.why(made.lineup.proposal),
        diamond=parts.diamond(made.lineup.proposal),
        chips=_chips(made),
        unrecorded="" if AS_RECORDED in series(made) else _ASSUMED if made.recorded.assumed else _UNRECORDED,
        lows=_lows(made),
        policies=_policies(made),
        common=f"All policies: {escape(', '.join(made.common))}." if made.common else "",
        timeline=_timeline(made),
        owners=owners,
        costs=_costs(made, owners, costs),
        shares=_BY_PROJECT if owners == "project" else _BY_REPOSITORY,
        notes=_notes(made),
        data=parts.data_text(_data(made)),
        library=library,
        script=script,
    )


_ASSUMED = "Free space as recorded is not shown, for the disk is not the recorded one."
_UNRECORDED = "The log holds too few disk samples to show free space as recorded."
_BY_PROJECT = "What an image cost is shared out among the projects whose jobs used it, by their uses."
_BY_REPOSITORY = "The log does not tell the jobs&#8217; projects: costs are summed by repository of the image."


def _first_pulls(made: Study) -> str:
    """What the images weighed when they came; nothing of images that were there before."""
    least = min((result.compulsory_bytes for result in made.results), default=0)
    return f" ({parts.size(least)} at their first pulls)" if least else ""


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


def _story(made: Study) -> str:
    """The headline: what the recommended policy would have cost, and what others do."""
    trace, chosen, rival = made.trace, made.chosen, made.rival
    length = "a year" if abs(trace.end - _YEAR_S) < 0.03 * _YEAR_S else format_duration(trace.end)
    if chosen is None:
        return f"What the disk of {escape(trace.host)} did in {length}"
    if not made.lineup.proposal.holds:
        return parts.unfit(chosen, rival, "this host")
    told = (
        f"{parts.short(chosen)} this host would have {parts.whole('re-pulled')} "
        f"{parts.size(chosen.repulled_bytes)} in {length}"
    )
    return told if rival is None else f"{told}; {parts.whole(rival.name)} {parts.size(rival.repulled_bytes)}"


def _verdict(made: Study) -> str:
    chosen, rival = made.chosen, made.rival
    if chosen is None:
        return ""
    never = next((result for result in made.results if result.baseline and not result.removals), None)
    told = (
        f"{parts.recommended(made.lineup.proposal, chosen.name)} In the whole time under it "
        f"{parts.times(chosen.disk_full, 'pull', 'pulls')} would have found the disk full, {parts.least_free(chosen)}, "
        f"and {chosen.removals:,} images would have been removed."
    )
    words = [told]
    if rival is not None and rival.repulled_bytes > chosen.repulled_bytes:
        words.append(
            f"<strong>{escape(rival.name)}</strong> would have removed {rival.removals:,}, and spent "
            f"{format_duration(rival.repull_seconds)} pulling them again, at {parts.size(rival.pull_rate)} a second."
        )
    if never is not None and never.disk_full:
        words.append(f"Without any pruning {parts.times(never.disk_full, 'pull', 'pulls')} would have found no space.")
    against = "" if rival is None else f"; {escape(rival.name)}: "
    cards = [
        (
            parts.size(chosen.repulled_bytes),
            f"pulled again{against}{parts.size(rival.repulled_bytes) if rival else ''}",
        ),
        (parts.size(chosen.min_free), f"least free space{against}{parts.size(rival.min_free) if rival else ''}"),
        (f"{chosen.disk_full:,}", f"pulls that found the disk full{against}{f'{rival.disk_full:,}' if rival else ''}"),
        (f"{chosen.hit_ratio:.2%}", f"of uses found their image{against}{f'{rival.hit_ratio:.2%}' if rival else ''}"),
    ]
    return parts.lead(words, cards)


def _chips(made: Study) -> str:
    """A box for each line; those of policies that are not recommended stand back."""
    shown = charts.default_series(made)
    ahead = {AS_RECORDED, *shown, *(result.name for result in made.results if result.baseline)}
    chips = {
        name: f'<label class="chip"><input type="checkbox" name="series" value="{escape(name)}"'
        f"{' checked' if name in shown else ''}>{_swatch(k, _offset(made))}{escape(name)}</label>"
        for k, name in enumerate(series(made))
    }
    first = "".join(chip for name, chip in chips.items() if name in ahead)
    rest = [chip for name, chip in chips.items() if name not in ahead]
    if not rest:
        return first
    return f"{first}<details><summary>{len(rest)} more policies</summary>{''.join(rest)}</details>"


def _swatch(number: int, offset: int) -> str:
    colour = (number + offset) % _COLOURS
    dash = "" if number < _COLOURS else ' stroke-dasharray="4 2"'
    return (
        f'<svg width="18" height="10" aria-hidden="true"><line x1="0" y1="5" x2="18" y2="5" stroke-width="3"{dash} '
        f'style="stroke:var(--c{colour})"/></svg>'
    )


def _lows(made: Study) -> str:
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
            cells.append(parts.cell(format_bytes(min(within)) if within else "-"))
        rows.append([parts.head_cell(f"from {format_time(made.trace.utc(begin))[:10]}"), *cells])
    return parts.table("Lowest free space in each interval", ["interval", *names], rows, sortable=False)


def _policies(made: Study) -> str:
    columns = parts.columns(made.results)
    rows = [
        [
            f'<th scope="row">{escape(result.name)}{parts.tag(result is made.chosen, made.lineup.proposal)}</th>',
            *parts.figures(columns, result),
        ]
        for result in made.results
    ]
    classes = ["chosen" if result is made.chosen else "" for result in made.results]
    return parts.table("Policies and what others do", ["policy", *parts.heads(columns)], rows, classes, quiet=True)


def _timeline(made: Study) -> str:
    shown = made.views
    if not shown:
        return ""
    return Template(parts.part("images.html")).substitute(
        options="".join(f'<option value="{escape(view.name)}">{escape(view.name)}</option>' for view in shown),
        rest="The most telling are shown; the table says how many more there are.",
        tables="".join(
            f'<div data-view="{escape(view.name)}"{" hidden" if k else ""}>{_image_table(view)}</div>'
            for k, view in enumerate(shown)
        ),
    )


def _image_table(view: report_data.View) -> str:
    rows = [
        [
            f'<th scope="row" class="name">{parts.breakable(row["image"])}</th>',
            parts.cell(format_bytes(row["bytes"]), row["bytes"]),
            parts.cell(f"{row['uses']:,}", row["uses"]),
            parts.cell(f"{row['repulls']:,}", row["repulls"]),
            parts.cell(format_bytes(row["repulled"]), row["repulled"]),
            parts.cell(format_duration(row["held"]), row["held"]),
            parts.cell(format_duration(row["idle"]), row["idle"]),
        ]
        for row in view.rows
    ]
    more = f"; {view.rest:,} more are not shown" if view.rest else ""
    heads = ["image", "size", "uses", "re-pulls", "pulled again", "held", "held after the last use"]
    return parts.table(f"{view.name}{more}", heads, rows)


def _costs(made: Study, kind: str, found: Sequence[report_data.Cost]) -> str:
    names = list(made.lives)
    most = {name: max((cost.repulled[name] for cost in found), default=0.0) for name in names}
    rows = [
        [
            f'<th scope="row" class="name">{parts.breakable(cost.owner)}</th>',
            parts.cell(f"{cost.images:,}", cost.images),
            parts.cell(f"{cost.uses:,.0f}", cost.uses),
            parts.cell(format_duration(cost.seconds), cost.seconds),
            parts.cell(format_bytes(cost.first_bytes), cost.first_bytes),
            *(parts.bar(cost.repulled[name], most[name]) for name in names),
        ]
        for cost in found
    ]
    heads = [kind, "images", "uses", "time in use", "first pulls", *(f"pulled again, {name}" for name in names)]
    return parts.table(f"Costs by {kind}", heads, rows, quiet=True)


def _notes(made: Study) -> str:
    if not made.notes:
        return ""
    listed = "".join(f"<li>{escape(note)}</li>" for note in made.notes)
    heading = '<h2 id="h-notes">What these figures stand on</h2>'
    return f'<section aria-labelledby="h-notes">{heading}<ul class="notes">{listed}</ul></section>'
