"""The report as one HTML file that opens anywhere, offline, and asks the network for nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import vl_convert

from analyzer import report_charts, report_data
from analyzer.report_data import AS_RECORDED, Study, milliseconds, series
from analyzer.result import Result
from collector.errors import HindsightError
from collector.units import format_bytes, format_duration, format_time

_YEAR_S = 360 * 86400.0


class ReportError(HindsightError):
    """The report cannot be written."""


def write_report(made: Study, path: Path) -> None:
    """Write the report of a study.

    Raises:
        ReportError: the file cannot be written.
    """
    text = render(made)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"the report cannot be written to {path}: {error.strerror or error}") from None


def render(made: Study) -> str:
    """The report of a study as HTML. What comes from the log is escaped wherever it stands."""
    trace = made.trace
    library = _library()
    script = _part("report.js")
    owners, costs = report_data.costs(made)
    return Template(_part("report.html")).substitute(
        hashes=f"{_hash(library)} {_hash(script)}",
        version=escape(version("docker-hindsight")),
        host=escape(trace.host),
        style=_part("report.css"),
        story=_story(made),
        span=f"{format_time(trace.utc(0.0))} to {format_time(trace.utc(trace.end))}",
        uses=f"{trace.demands:,}",
        images=f"{trace.images:,}",
        compulsory=_bytes(min((result.compulsory_bytes for result in made.results), default=0)),
        total=_bytes(made.total),
        verdict=_verdict(made),
        chips=_chips(made),
        unrecorded="" if AS_RECORDED in series(made) else _UNRECORDED,
        lows=_lows(made),
        policies=_policies(made),
        common=f"All policies: {escape(', '.join(made.common))}." if made.common else "",
        timeline=_timeline(made),
        owners=owners,
        costs=_costs(made, owners, costs),
        shares=_BY_PROJECT if owners == "project" else _BY_REPOSITORY,
        notes=_notes(made),
        data=_json(_data(made)),
        library=library,
        script=script,
    )


_UNRECORDED = "The log holds too few disk samples to show free space as recorded."
_BY_PROJECT = "What an image cost is shared out among the projects whose jobs used it, by their uses."
_BY_REPOSITORY = "The log does not tell the jobs&#8217; projects: costs are summed by repository of the image."


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets `vegaEmbed`."""
    bundle: Callable[[], str] = vl_convert.javascript_bundle  # type: ignore[assignment] # its stub forgets a default
    return bundle()


def _part(name: str) -> str:
    return (files("analyzer") / "page" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """What a browser must find the script to be, or not run it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(value: Any) -> str:
    """JSON that ends no script element, whatever is in it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(made: Study) -> dict[str, Any]:
    specs = {
        "free": report_charts.free_space_chart(made),
        "tradeoff": report_charts.trade_off_chart(made),
        "images": report_charts.images_chart(made),
    }
    begin, end = milliseconds(made.trace, np.array([0.0, made.trace.end]))
    return {
        "begin": begin,
        "end": end,
        "series": series(made),
        "offset": _offset(made),
        "shown": report_charts.default_series(made),
        "specs": {name: spec for name, spec in specs.items() if spec is not None},
        "free": report_data.free_space(made),
        "marks": report_data.marks(made),
        "gaps": report_data.gaps(made),
        "levels": report_charts.levels(made),
        "policies": report_charts.trade_off(made),
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
    told = f"{_short(chosen)} this host would have {_whole('re-pulled')} {_bytes(chosen.repulled_bytes)} in {length}"
    return told if rival is None else f"{told}; {_whole(rival.name)} {_bytes(rival.repulled_bytes)}"


def _whole(text: str) -> str:
    """Text that is not broken at its hyphens."""
    return f'<span class="whole">{escape(text)}</span>'


def _short(result: Result) -> str:
    """A policy as one says it: by its threshold, if its name tells that."""
    text = result.name.partition(",")[0]
    _, _, level = text.partition(" under ")
    return escape(f"At {level}" if level else f"With {text}")


def _verdict(made: Study) -> str:
    chosen, rival = made.chosen, made.rival
    if chosen is None:
        return ""
    never = next((result for result in made.results if result.baseline and not result.removals), None)
    told = (
        f"The recommended policy is <strong>{escape(chosen.name)}</strong>. Under it "
        f"{_times(chosen.disk_full, 'pull', 'pulls')} would have found the disk full, free space would never have "
        f"been less than {_bytes(chosen.min_free)}, and {chosen.removals:,} images would have been removed."
    )
    words = [told]
    if rival is not None and rival.repulled_bytes > chosen.repulled_bytes:
        words.append(
            f"<strong>{escape(rival.name)}</strong> would have removed {rival.removals:,}, and spent "
            f"{format_duration(rival.repull_seconds)} pulling them again, at {_bytes(rival.pull_rate)} a second."
        )
    if never is not None and never.disk_full:
        words.append(f"Without any pruning {_times(never.disk_full, 'pull', 'pulls')} would have found no space.")
    against = "" if rival is None else f"; {escape(rival.name)}: "
    cards = [
        (_bytes(chosen.repulled_bytes), f"pulled again{against}{_bytes(rival.repulled_bytes) if rival else ''}"),
        (_bytes(chosen.min_free), f"least free space{against}{_bytes(rival.min_free) if rival else ''}"),
        (f"{chosen.disk_full:,}", f"pulls that found the disk full{against}{f'{rival.disk_full:,}' if rival else ''}"),
        (f"{chosen.hit_ratio:.2%}", f"of uses found their image{against}{f'{rival.hit_ratio:.2%}' if rival else ''}"),
    ]
    listed = "".join(f"<li><b>{figure}</b><span>{words}</span></li>" for figure, words in cards)
    return f'<p class="lead">{" ".join(words)}</p><ul class="figures">{listed}</ul>'


def _chips(made: Study) -> str:
    """A box for each line; those of policies that are not recommended stand back."""
    shown = report_charts.default_series(made)
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
    colour = (number + offset) % 7
    dash = "" if number < 7 else ' stroke-dasharray="4 2"'  # noqa: PLR2004
    return (
        f'<svg width="18" height="10" aria-hidden="true"><line x1="0" y1="5" x2="18" y2="5" stroke-width="3"{dash} '
        f'style="stroke:var(--c{colour})"/></svg>'
    )


def _lows(made: Study) -> str:
    """The least free space of each twelfth of the time, for each line that is shown at first."""
    names = report_charts.default_series(made)
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
            cells.append(_cell(format_bytes(min(within)) if within else "-"))
        rows.append([_head_cell(f"from {format_time(made.trace.utc(begin))[:10]}"), *cells])
    return _table("Lowest free space in each interval", ["interval", *names], rows, sortable=False)


_COLUMNS: list[tuple[str, Any, Any]] = [
    ("re-pulls", lambda r: r.repulls, lambda r: f"{r.repulls:,}"),
    ("pulled again", lambda r: r.repulled_bytes, lambda r: format_bytes(r.repulled_bytes)),
    ("pull time", lambda r: r.repull_seconds, lambda r: format_duration(r.repull_seconds)),
    ("hits", lambda r: r.hit_ratio, lambda r: f"{r.hit_ratio:.2%}"),
    ("disk full", lambda r: r.disk_full, lambda r: f"{r.disk_full:,}"),
    ("least free", lambda r: r.min_free, lambda r: format_bytes(r.min_free)),
    ("under threshold", lambda r: r.seconds_under, lambda r: format_duration(r.seconds_under)),
    ("removed", lambda r: r.removals, lambda r: f"{r.removals:,}"),
    ("emergency", lambda r: r.emergency_removals, lambda r: f"{r.emergency_removals:,}"),
    ("lost", lambda r: r.losses, lambda r: f"{r.losses:,}"),
    ("mean held", lambda r: r.mean_held_bytes, lambda r: format_bytes(r.mean_held_bytes)),
]
_BAD_IF_ANY = {"disk full", "lost"}
_SHOWN_IF_ANY = {"emergency", "lost"}


def _policies(made: Study) -> str:
    columns = [
        (name, value, text)
        for name, value, text in _COLUMNS
        if name not in _SHOWN_IF_ANY or any(value(result) for result in made.results)
    ]
    rows = []
    for result in made.results:
        tag = '<span class="tag">recommended</span>' if result is made.chosen else ""
        cells = [
            _cell(text(result), value(result), "bad" if name in _BAD_IF_ANY and value(result) else "")
            for name, value, text in columns
        ]
        rows.append([f'<th scope="row">{escape(result.name)}{tag}</th>', *cells])
    classes = ["chosen" if result is made.chosen else "" for result in made.results]
    return _table(
        "Policies and what others do", ["policy", *(name for name, _, _ in columns)], rows, classes, quiet=True
    )


def _timeline(made: Study) -> str:
    shown = made.views
    if not shown:
        return ""
    return Template(_part("images.html")).substitute(
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
            f'<th scope="row" class="name">{_breakable(row["image"])}</th>',
            _cell(format_bytes(row["bytes"]), row["bytes"]),
            _cell(f"{row['uses']:,}", row["uses"]),
            _cell(f"{row['repulls']:,}", row["repulls"]),
            _cell(format_bytes(row["repulled"]), row["repulled"]),
            _cell(format_duration(row["held"]), row["held"]),
            _cell(format_duration(row["idle"]), row["idle"]),
        ]
        for row in view.rows
    ]
    more = f"; {view.rest:,} more are not shown" if view.rest else ""
    heads = ["image", "size", "uses", "re-pulls", "pulled again", "held", "held after the last use"]
    return _table(f"{view.name}{more}", heads, rows)


def _costs(made: Study, kind: str, found: Sequence[report_data.Cost]) -> str:
    names = list(made.lives)
    most = {name: max((cost.repulled[name] for cost in found), default=0.0) for name in names}
    rows = [
        [
            f'<th scope="row" class="name">{_breakable(cost.owner)}</th>',
            _cell(f"{cost.images:,}", cost.images),
            _cell(f"{cost.uses:,.0f}", cost.uses),
            _cell(format_duration(cost.seconds), cost.seconds),
            _cell(format_bytes(cost.first_bytes), cost.first_bytes),
            *(_bar(cost.repulled[name], most[name]) for name in names),
        ]
        for cost in found
    ]
    heads = [kind, "images", "uses", "time in use", "first pulls", *(f"pulled again, {name}" for name in names)]
    return _table(f"Costs by {kind}", heads, rows, quiet=True)


def _notes(made: Study) -> str:
    if not made.notes:
        return ""
    listed = "".join(f"<li>{escape(note)}</li>" for note in made.notes)
    heading = '<h2 id="h-notes">What these figures stand on</h2>'
    return f'<section aria-labelledby="h-notes">{heading}<ul class="notes">{listed}</ul></section>'


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    classes: Sequence[str] = (),
    *,
    sortable: bool = True,
    quiet: bool = False,
) -> str:
    """A table that may be wider than the page: it scrolls by itself, also with the keyboard."""
    inner = '<button type="button">{}</button>' if sortable else '<span class="plain">{}</span>'
    head = "".join(f'<th scope="col">{inner.format(escape(name))}</th>' for name in heads)
    styled = zip(rows, itertools.chain(classes, itertools.repeat("")))  # noqa: B905
    body = "".join(f"<tr{_class(style)}>{''.join(row)}</tr>" for row, style in styled)
    named = f"<caption{_class('quiet' if quiet else '')}>{escape(caption)}</caption>"
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>{named}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str, value: float | None = None, style: str = "") -> str:
    data = "" if value is None else f' data-value="{value:.12g}"'
    return f"<td{data}{_class(style)}>{escape(text)}</td>"


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""


def _bar(amount: float, most: float) -> str:
    share = 100.0 * amount / most if most else 0.0
    return f'<td class="bar" style="--share:{share:.1f}%" data-value="{amount:.12g}">{format_bytes(amount)}</td>'


def _head_cell(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _breakable(name: str) -> str:
    """A name that may go on in the next line after a slash or a colon."""
    return escape(name).replace("/", "/<wbr>").replace(":", ":<wbr>")


def _bytes(count: float) -> str:
    return escape(format_bytes(count)).replace(" ", "&nbsp;")


def _times(count: int, one: str, many: str) -> str:
    return f"no {one}" if count == 0 else f"{count:,} {one if count == 1 else many}"
