"""The report as one HTML file that opens anywhere, offline, and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.report import charts, parts
from analyzer.report import page_tables as tables
from analyzer.report import study as report_data
from analyzer.report.page_data import INTERVALS, Scale, pack_json, pack_lines
from analyzer.report.page_lines import THIS, chips, colours, lines_beside
from analyzer.report.stories import Stays, images_with_story, stories
from analyzer.report.study import AS_RECORDED, Compared, Study, milliseconds
from analyzer.search.whatif import THRESHOLD
from analyzer.simulation.result import Result
from collector.model.units import format_duration, format_time
from pruner.policy.file import changes
from pruner.policy.policy import AUTO, Policy

_YEAR_S = 360 * 86400.0
_NEARLY = 0.03


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
    removed = [] if made.week is None else made.week.removed.image[tables.dearest(made.week)].tolist()
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
        chips=chips(made),
        lows=tables.lows(made),
        policies=tables.policies(made, shown.first),
        views=[(view, tables.images_table(view, place)) for view in made.views],
        week=tables.week_table(made, place),
        owners=owners,
        costs=tables.costs_table(made, owners, costs),
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
    lines = dict(lines_beside(made, scale))
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
                "body": parts.macro("body", tables.folded_rows(made, results, k, tables.figures_shown(made))),
                "points": charts.trade_off(view, most, tables.thresholds_of(made), k * len(results)),
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
            "free": charts.free_space_chart(made, [THIS, *lines]),
            "tradeoff": charts.trade_off_chart(made, most),
        },
        "series": [THIS, *lines],
        "colours": colours([THIS, *lines]),
        "bands": [name for name in lines if name not in {AS_RECORDED, word}],
        "sizes": [len(control.values) for control in shown.controls],
        "first": shown.first,
        "recommended": shown.recommended,
        "word": word,
        "gaps": report_data.gaps(made),
        "levels": charts.levels(made.total),
        "policies": charts.trade_off(made, most),
        "lines": pack_lines([*lines.values(), *(() if made.tried is None else made.tried.lines)]),
        "texts": pack_json({"runs": shown.runs, "rows": rows, "thresholds": thresholds}),
        "stories": pack_json(stories(made.trace, lives, made.recorded.projects or {}, chosen)),
        "rate": made.results[0].pull_rate if made.results else 0,
    }


def _row_of(made: Study, results: Sequence[Result], number: int) -> Compared:
    """Baselines, and policies that differ in the threshold alone."""
    own = [*(result for result in made.results if result.baseline), *results]
    chosen = tables.recommended(made, results, number)
    return Compared(results=own, chosen=chosen, lineup=made.lineup, total=made.total)
