"""What every report page is made of: tables, sizes and scripts as HTML text. What is given is escaped."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from analyzer.search.recommend import Proposal
from analyzer.simulation.figures import Figure, in_tables
from analyzer.simulation.result import Result
from collector.model.errors import HindsightError
from collector.model.paths import write_whole
from collector.model.units import format_bytes


class ReportError(HindsightError):
    """The report cannot be written."""


def columns(results: Iterable[Result]) -> dict[str, Figure]:
    """The columns of a table of these results: some are left out where they are zero everywhere."""
    known = list(results)
    return {
        name: figure
        for name, figure in in_tables().items()
        if not figure.shown_if_any or any(getattr(result, name) for result in known)
    }


def heads(shown: Mapping[str, Figure]) -> list[str]:
    """The columns' headings."""
    return [figure.label or figure.header.lower() for figure in shown.values()]


def figures(shown: Mapping[str, Figure], result: Result) -> list[str]:
    """A result's cells."""
    made = []
    for name, figure in shown.items():
        value = getattr(result, name)
        made.append(cell(figure.text(value), value, "bad" if figure.bad_if_any and value else ""))
    return made


def tag(shown: bool, proposal: Proposal) -> str:
    """What marks the recommended policy."""
    return f'<span class="tag">{proposal.word}</span>' if shown else ""


def recommended(proposal: Proposal, name: str) -> str:
    """What begins the report's first sentence."""
    word = "Recommended:" if proposal.holds else "Nothing fits; closest comes"
    return f"{word} <strong>{escape(name)}</strong>."


def lead(words: Iterable[str], cards: Iterable[tuple[str, str]]) -> str:
    """What is told first: sentences, and a few figures with their meaning. All is HTML."""
    listed = "".join(f"<li><b>{figure}</b><span>{meaning}</span></li>" for figure, meaning in cards)
    return f'<p class="lead">{" ".join(words)}</p><ul class="figures">{listed}</ul>'


def why(proposal: Proposal) -> str:
    """The section that says why this policy, in `analyzer recommend`'s own sentences."""
    if not proposal.said:
        return ""
    said = proposal.said if proposal.holds else [sentence[:1].upper() + sentence[1:] for sentence in proposal.said]
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in said)
    heading = "Why this policy" if proposal.holds else "Why nothing fits"
    return f'<section aria-labelledby="h-why"><h2 id="h-why">{heading}</h2><ul class="notes">{listed}</ul></section>'


def unfit(chosen: Result, rival: Result | None, where: str) -> str:
    """The headline where no policy does what is asked."""
    told = short(chosen)
    missed = f"{times(chosen.disk_full, 'pull', 'pulls')} would have found the disk full"
    if not chosen.disk_full:
        missed = f"{times(chosen.losses, 'image', 'images')} would have been lost"
    against = (
        "" if rival is None else f"; {whole(rival.name)}: {rival.disk_full if chosen.disk_full else rival.losses:,}"
    )
    return f"Nothing fits {where}: {told[:1].lower()}{told[1:]} {missed}{against}"


def least_free(result: Result) -> str:
    """How much was free at the worst, as the end of a sentence on what would have been."""
    if result.min_free < 0:
        return f"{size(-result.min_free)} would have been short at the worst"
    return f"free space would never have been less than {size(result.min_free)}"


def diamond(proposal: Proposal, whose: str = "") -> str:
    """What the trade-off's marks stand for."""
    if proposal.policy is None:
        return ""
    first = (
        f"The recommended policy{whose} is the diamond."
        if proposal.holds
        else "Nothing fits; the diamond comes closest."
    )
    return (
        f"{first} Of the ringed ones no other leaves more space without pulling more again; more space than is needed "
        "means that fewer images are kept."
    )


def whole(text: str) -> str:
    """Text that is not broken at its hyphens."""
    return f'<span class="whole">{escape(text)}</span>'


def short(result: Result) -> str:
    """A policy as one says it: by its threshold, if its name tells that."""
    text = result.name.partition(",")[0]
    _, _, level = text.partition(" under ")
    return escape(f"At {level}" if level else f"With {text}")


def write(text: str, path: Path) -> None:
    """Write a page. Raises ReportError."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise ReportError(
            f"the report cannot be written to {path}: {error.strerror or error}; name another place with -o"
        ) from None


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets `vegaEmbed`; it is added when the package is built.

    Raises:
        ReportError: this is a source tree that was never built.
    """
    try:
        return part("charts.js")
    except FileNotFoundError:
        raise ReportError("the charts' script is missing: in a checkout, run `make sync`") from None


def part(name: str) -> str:
    """The text of a file of the page."""
    return (files("analyzer.report") / "page" / name).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """What a browser must find the script to be, or not run it."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def data_text(value: Any) -> str:
    """JSON that ends no script element, whatever is in it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(
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
    head = "".join(
        f'<th scope="col"{style_class("text" if name == "policy" else "")}>{inner.format(escape(name))}</th>'
        for name in heads
    )
    styled = zip(rows, itertools.chain(classes, itertools.repeat("")))  # noqa: B905 - the second has no end
    body = "".join(f"<tr{style_class(style)}>{''.join(row)}</tr>" for row, style in styled)
    named = f"<caption{style_class('quiet' if quiet else '')}>{escape(caption)}</caption>"
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>{named}'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def cell(text: str, value: float | None = None, style: str = "") -> str:
    """A cell that shows a text and sorts by a value."""
    data = "" if value is None else f' data-value="{value:.15g}"'
    return f"<td{data}{style_class(style)}>{escape(text)}</td>"


def style_class(style: str) -> str:
    """The class attribute, if there is a style."""
    return f' class="{style}"' if style else ""


def bar(amount: float, most: float) -> str:
    """A cell of bytes with a bar as long as its share of the most."""
    share = 100.0 * amount / most if most else 0.0
    return f'<td class="bar" style="--share:{share:.1f}%" data-value="{amount:.12g}">{format_bytes(amount)}</td>'


def head_cell(text: str) -> str:
    """The cell that names its row."""
    return f'<th scope="row">{escape(text)}</th>'


def breakable(name: str) -> str:
    """A name that may go on in the next line after a slash or a colon."""
    return escape(name).replace("/", "/<wbr>").replace(":", ":<wbr>")


def size(count: float) -> str:
    """Bytes that are not broken between figure and unit."""
    return escape(format_bytes(count)).replace(" ", "&nbsp;")


def times(count: int, one: str, many: str) -> str:
    """So many of something, in words."""
    return f"no {one}" if count == 0 else f"{count:,} {one if count == 1 else many}"
