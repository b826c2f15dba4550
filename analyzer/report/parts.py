"""What every report page is made of: tables as values, and the environment that renders them.

The templates escape whatever they are given; only the page's own scripts, style and data go in as they are.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analyzer.simulation.figures import FIGURES, Figure, in_tables
from analyzer.simulation.result import Result
from collector.model.errors import HindsightError
from collector.model.paths import write_whole
from collector.model.units import format_bytes, format_count, format_duration
from pruner.policy.policy import AUTO

_NO_BREAK = "\N{NO-BREAK SPACE}"


class ReportError(HindsightError):
    """The report cannot be written."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it shows.
        value: what it sorts by; None: its text.
        style: its class; a ``name`` may go on in the next line after a slash or a colon.
        head: whether it names its row.
        share: percent of the most, drawn as a bar; None: no bar.
        tag: what marks it.
        story: which image's story opens where its name is clicked; None: none.
        opens: how many of the rows that follow it shows or hides.
    """

    text: str
    value: float | None = None
    style: str = ""
    head: bool = False
    share: float | None = None
    tag: str = ""
    story: int | None = None
    opens: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        cells: its cells.
        chosen: whether it is that of the recommended policy.
        run: which policy of those that can be shown it is of; None: of none.
        folded: whether it shows only once it is opened.
    """

    cells: Sequence[Cell]
    chosen: bool = False
    run: int | None = None
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table that may be wider than the page.

    Attributes:
        caption: what it shows.
        heads: the columns' headings.
        rows: its rows.
        sortable: whether a click on a heading sorts it.
        quiet: whether its caption is for readers of the screen only.
        name: by which the page's script finds it; "": it need not.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Row]
    sortable: bool = True
    quiet: bool = False
    name: str = ""


def columns(results: Iterable[Result]) -> dict[str, Figure]:
    """The columns of a table of these results, what counts most first; some are left out where all are zero."""
    known = list(results)
    first = {name: FIGURES[name] for name in _FIRST}
    return {
        name: figure
        for name, figure in (first | in_tables(known)).items()
        if not figure.shown_if_any or any(getattr(result, name) for result in known)
    }


# What a phone shows without being scrolled: whether it fails, what it costs, how close it comes.
_FIRST = ("disk_full", "repulled_bytes", "min_free")


def heads(shown: Mapping[str, Figure]) -> list[str]:
    """The columns' headings."""
    return [figure.label or figure.header.lower() for figure in shown.values()]


def figures(shown: Mapping[str, Figure], result: Result) -> list[Cell]:
    """A result's cells."""
    made = []
    for name, figure in shown.items():
        value = getattr(result, name)
        made.append(Cell(figure.text(value), value, "bad" if figure.bad_if_any and value else ""))
    return made


def bytes_cell(count: float, most: float | None = None) -> Cell:
    """A cell of bytes; with a bar as long as its share of the most, if that is given."""
    if most is None:
        return Cell(format_bytes(count), count)
    return Cell(format_bytes(count), count, "bar", share=100.0 * count / most if most else 0.0)


def page(template: str, data: Any, scripts: Sequence[str] = (), **values: Any) -> str:
    """A page as HTML.

    Args:
        template: the file of the page.
        data: what the page's script draws, as JSON.
        scripts: files of scripts beside the one that every page has, which comes first.
        values: what the template shows; all of it is escaped.

    Raises:
        ReportError: this is a source tree that was never built.
    """
    own = "\n".join(part(name) for name in ("report.js", *scripts))
    return (
        environment()
        .get_template(template)
        .render(
            **values,
            version=version("docker-hindsight"),
            hashes=Markup(" ".join(map(script_hash, (library(), own)))),  # noqa: S704 - digests of our own scripts
            style=Markup(part("report.css")),  # noqa: S704 - a file of ours
            data=Markup(data_text(data)),  # noqa: S704 - JSON without any character that HTML knows
            library=Markup(library()),  # noqa: S704 - as above
            script=Markup(own),  # noqa: S704
        )
    )


@functools.cache
def environment() -> Environment:
    """The templates' environment: everything is escaped, and what is missing is a fault."""
    made = Environment(
        loader=PackageLoader("analyzer.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
    )
    made.filters.update(
        size=lambda count: format_bytes(count).replace(" ", _NO_BREAK),
        duration=format_duration,
        counted=format_count,
        times=times,
        breakable=breakable,
        by_threshold=by_threshold,
        figure=lambda result, name: FIGURES[name].text(getattr(result, name)).replace(" ", _NO_BREAK),
        sentence=lambda text: text[:1].upper() + text[1:],
        lower_first=lambda text: text[:1].lower() + text[1:],
    )
    return made


def macro(name: str, *given: Any, **named: Any) -> str:
    """What a macro of `macros.html` makes of this."""
    return str(getattr(environment().get_template("macros.html").module, name)(*given, **named))


def by_threshold(result: Result) -> str:
    """A policy in words: by its threshold, if its name contains that."""
    text = result.name.partition(",")[0]
    level = text.removeprefix("prune below ").partition(" (")[0]
    if level == f"{AUTO} free":
        return "With the automatic threshold"
    return f"With {text}" if level == text else f"At {level}"


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after a slash or a colon."""
    return escape(name).replace("/", Markup("/<wbr>")).replace(":", Markup(":<wbr>"))


_WORD = re.compile(r"[^\s(),;]+")


def linked(text: str, stories: Mapping[str, int]) -> Markup:
    """A text in which each image that is named opens its story.

    Args:
        text: the text.
        stories: the numbers of the stories, by the images' names.
    """
    made, at = Markup(), 0
    for word in _WORD.finditer(text):
        name = word[0].rstrip(".:")
        if name in stories:
            made += escape(text[at : word.start()]) + Markup(macro("story", name, stories[name]))  # noqa: S704 - escaped
            at = word.start() + len(name)
    return made + escape(text[at:])


def times(count: int, what: str) -> str:
    """So many of something, in words."""
    return f"no {what}" if count == 0 else format_count(count, what)


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
