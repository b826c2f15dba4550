"""Tables for the terminal: they fit its width, and show more where there is more.

Where a table is too wide, sentences move to a line of their own, then names are shortened, then the
columns that matter least are left out, and the table says which. On a terminal too narrow for that the
first column's cells stand on a line of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from collector.model.untrusted import is_visible, one_line

Cell = str | Text

_BETWEEN = "  "
_NAME_LEAST = 26
_NAME_STEP = 2
_NAME_ENOUGH = 36  # wider than this a name is not made at the cost of other columns
_FOLD_LEAST = 7
_NARROW = 60  # on a narrower terminal what does not fit beside goes under
_TAIL_SHARE = 0.7
_HEAD_SHARE = 0.6  # of a reference: its repository says more than its tag
# Where names would look alike: how many folders to keep, and how much of a name's beginning.
_OTHER_CUTS = ((1, 0.6), (0, 0.4), (1, 0.5), (0, 0.25), (0, 0.8), (2, 0.6))


@dataclass(frozen=True)
class Table:
    """What is to be shown.

    Attributes:
        columns: their headings.
        rows: one cell a column; `Text` cells bring their own style.
        right: columns aligned to the right, as numbers are.
        names: columns of names, which may be shortened.
        below: columns of sentences, which may stand under their row.
        optional: columns that may be left out, the first of them first.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    right: Collection[str] = ()
    names: Collection[str] = ()
    below: Collection[str] = ()
    optional: Sequence[str] = ()

    def lines(self, console: Console) -> Iterator[Text]:
        """The table, line by line, as wide as the console at most."""
        return map(_text, self.cheap_lines(console))

    def cheap_lines(self, console: Console) -> Iterator[Cell]:
        """As `lines`; lines without a style are strings, which long tables are printed from in a tenth of the time."""
        cells, natural = self._cells, self._natural
        shown, under = self._chosen(natural, console.width)
        stacked = console.width < _NARROW and len(shown) > 1 and not self._fits(shown, natural, console.width)
        if stacked:
            yield from self._stacked(cells, shown, under, natural, console)
            return
        widths = self._widths(shown, natural, console.width)
        short = self._short(shown, widths)
        yield from self._line([Text(self.columns[i], "bold") for i in shown], shown, widths, console)
        fits = all(natural[i] <= width or i in short for i, width in zip(shown, widths, strict=True))
        rights = [self.columns[i] in self.right for i in shown]
        indent = " " * (widths[0] + len(_BETWEEN)) if widths[0] + len(_BETWEEN) < console.width // 3 else "    "
        for row in cells:
            named = self._named(row, shown, short)
            texts = [cell for cell in named if isinstance(cell, str)]
            if fits and len(texts) == len(named):
                yield _BETWEEN.join(map(_aligned, texts, widths, rights)).rstrip()
            else:
                yield from self._line(named, shown, widths, console)
            for i in under:
                for part in _text(row[i]).wrap(console, console.width - len(indent)):
                    yield Text.assemble(indent, (part.plain.rstrip(), "dim"))

    def _short(self, shown: Sequence[int], widths: Sequence[int]) -> dict[int, dict[str, str]]:
        """Of each column of names, each name with one that fits."""
        return {
            i: shorten_all(self._names(i), width)
            for i, width in zip(shown, widths, strict=True)
            if self.columns[i] in self.names
        }

    @staticmethod
    def _named(row: Sequence[Cell], shown: Sequence[int], short: Mapping[int, Mapping[str, str]]) -> list[Cell]:
        return [_renamed(row[i], short[i]) if i in short else row[i] for i in shown]

    def _stacked(
        self,
        cells: Sequence[Sequence[Cell]],
        shown: Sequence[int],
        under: Sequence[int],
        natural: Sequence[int],
        console: Console,
    ) -> Iterator[Text]:
        """The table on a narrow terminal: the first column's cells stand over the others."""
        first, rest = shown[0], shown[1:]
        width = console.width - len(_BETWEEN)
        widths = self._widths(rest, natural, width)
        short = self._short(rest, widths)
        yield Text(self.columns[first], "bold")
        for line in self._line([Text(self.columns[i], "bold") for i in rest], rest, widths, console):
            yield Text(_BETWEEN) + line
        for row in cells:
            yield from self._parts(row[first], console.width, console)
            for line in self._line(self._named(row, rest, short), rest, widths, console):
                yield Text(_BETWEEN) + line
            for i in under:
                for part in _text(row[i]).wrap(console, width):
                    yield Text.assemble(_BETWEEN, (part.plain.rstrip(), "dim"))

    def left_out(self, console: Console) -> list[str]:
        """The columns that do not fit."""
        shown, under = self._chosen(self._natural, console.width)
        return [name for i, name in enumerate(self.columns) if i not in {*shown, *under}]

    @cached_property
    def _cells(self) -> list[list[Cell]]:
        """All rows, fit to be printed; what has no style remains a string, which takes a tenth of the time."""
        return [[_clean(cell) for cell in row] for row in self.rows]

    @cached_property
    def _natural(self) -> list[int]:
        """How wide each column is if nothing is cut."""
        return [
            max([width_of(name), *(width_of(_plain(row[i])) for row in self._cells)])
            for i, name in enumerate(self.columns)
        ]

    def _chosen(self, natural: Sequence[int], width: int) -> tuple[list[int], list[int]]:
        """The columns that are shown side by side, and those under each row."""
        everything = list(range(len(self.columns)))
        shown, under = everything, []
        if _excess(natural, width) > 0:
            under = [i for i in everything if self.columns[i] in self.below]
            shown = [i for i in everything if i not in under]
        for name in self.optional:
            if self._fits(shown, natural, width):
                break
            shown = [i for i in shown if self.columns[i] != name]
        return shown, under

    def _least(self, i: int, natural: int) -> int:
        """How narrow a column may be: one of names as long as those stay apart."""
        if self.columns[i] not in self.names or natural <= _NAME_LEAST:
            return natural
        names = self._names(i)
        widths = range(_NAME_LEAST, min(natural, _NAME_ENOUGH) + 1, _NAME_STEP)
        return max(widths, key=lambda width: (len(set(shorten_all(names, width).values())), -width))

    def _names(self, i: int) -> set[str]:
        return {_plain(row[i]) for row in self._cells}

    def _fits(self, shown: Sequence[int], natural: Sequence[int], width: int) -> bool:
        return (
            _excess([natural[i] for i in shown], width) <= 0
            or _excess([self._least(i, natural[i]) for i in shown], width) <= 0
        )

    def _widths(self, shown: Sequence[int], natural: Sequence[int], width: int) -> list[int]:
        """As wide as the content; where that is too much, names and then the widest text give way."""
        widths = [natural[i] for i in shown]
        if _excess(widths, width) <= 0:
            return widths
        for k, i in enumerate(shown):
            if self.columns[i] in self.names:
                widths[k] = max(self._least(i, natural[i]), widths[k] - max(0, _excess(widths, width)))
        folding = [k for k, i in enumerate(shown) if self.columns[i] not in self.right]
        while folding and _excess(widths, width) > 0:
            k = max(folding, key=lambda k: widths[k])
            folding.remove(k)
            widths[k] = max(_FOLD_LEAST, widths[k] - _excess(widths, width))
        return widths

    def _line(
        self, cells: Sequence[Cell], shown: Sequence[int], widths: Sequence[int], console: Console
    ) -> Iterator[Text]:
        if all(width_of(_plain(cell)) <= width for cell, width in zip(cells, widths, strict=True)):
            yield self._row(cells, shown, widths)
            return
        parts = [self._parts(cell, width, console) for cell, width in zip(cells, widths, strict=True)]
        for number in range(max(len(part) for part in parts)):
            line = Text(no_wrap=True, end="")
            for i, part, width in zip(shown, parts, widths, strict=True):
                cell = part[number] if number < len(part) else Text()
                space = " " * (width - cell.cell_len)
                line.append_text(Text(space) + cell if self.columns[i] in self.right else cell + Text(space))
                line.append(_BETWEEN)
            line.rstrip()
            yield line

    def _row(self, cells: Sequence[Cell], shown: Sequence[int], widths: Sequence[int]) -> Text:
        """A row that takes one line, as most do."""
        plain: list[str] = []
        styled: list[tuple[int, Text]] = []
        at = 0
        for i, cell, width in zip(shown, cells, widths, strict=True):
            said = _plain(cell)
            space = " " * (width - width_of(said))
            is_right = self.columns[i] in self.right
            plain.append(space + said if is_right else said + space)
            if isinstance(cell, Text) and (cell.style or cell.spans):
                styled.append((at + len(space) if is_right else at, cell))
            at += len(space) + len(said) + len(_BETWEEN)
        line = Text(_BETWEEN.join(plain).rstrip(), no_wrap=True, end="")
        for begin, cell in styled:
            if cell.style:
                line.stylize(cell.style, begin, begin + len(cell.plain))
            for span in cell.spans:
                line.stylize(span.style, begin + span.start, begin + span.end)
        return line

    @staticmethod
    def _parts(cell: Cell, width: int, console: Console) -> list[Text]:
        whole = _text(cell)
        if width_of(whole.plain) <= width:
            return [whole]
        parts = list(whole.wrap(console, width))
        for part in parts:
            part.rstrip()
        return parts


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return len(text) if text.isascii() else cell_len(text)


def _aligned(text: str, width: int, is_right: bool) -> str:
    if text.isascii():
        return text.rjust(width) if is_right else text.ljust(width)
    space = " " * (width - cell_len(text))
    return space + text if is_right else text + space


def printable(cell: Cell) -> Text:
    """A cell that cannot steer the terminal, whatever is in it."""
    return _text(_clean(cell))


def _clean(cell: Cell) -> Cell:
    plain = _plain(cell)
    if not is_visible(plain):
        return Text(one_line(plain), cell.style) if isinstance(cell, Text) else one_line(plain)
    return cell.copy() if isinstance(cell, Text) else cell


def _plain(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.plain


def _text(cell: Cell) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _renamed(cell: Cell, names: Mapping[str, str]) -> Cell:
    name = _plain(cell)
    return names.get(name, name) if isinstance(cell, str) else Text(names.get(name, name), cell.style)


def shorten(name: str, width: int) -> str:
    """A name that fits: a path without its beginning, else one without its middle.

    Images of one registry differ in the end of their repository and in the end of their tag.
    """
    if width_of(name) <= width:
        return name
    parts = name.split("/")
    for k in range(1, len(parts)):
        shorter = "…/" + "/".join(parts[k:])
        if width_of(shorter) <= width:
            return shorter
    if len(parts) == 1:
        return _without_middle(name, width, 1 - _TAIL_SHARE)
    return _cut(parts, width, 0, _HEAD_SHARE)


def shorten_all(names: Iterable[str], width: int) -> dict[str, str]:
    """Each name with one that fits; those that would look alike are cut elsewhere, where that distinguishes them."""
    short = {name: shorten(name, width) for name in names}
    for folders, head_share in _OTHER_CUTS:
        seen = Counter(short.values())
        alike = [name for name in short if seen[short[name]] > 1 and "/" in name]
        if not alike:
            break
        other = {name: _cut(name.split("/"), width, folders, head_share) for name in alike}
        found = Counter(other.values())
        short |= {name: text for name, text in other.items() if found[text] == 1 and text not in seen}
    return short


def _cut(parts: Sequence[str], width: int, folders: int, head_share: float) -> str:
    """The end of a path, without its middle."""
    kept = "/".join(parts[-1 - folders :])
    return "…/" + _without_middle(kept, width - 2, head_share) if cell_len(kept) > width - 2 else "…/" + kept


def _without_middle(name: str, width: int, head_share: float) -> str:
    tail = round((width - 1) * (1 - head_share))
    return set_cell_size(name, width - 1 - tail).rstrip() + "…" + name[len(name) - tail :]


def _excess(widths: Sequence[int], width: int) -> int:
    return sum(widths) + len(_BETWEEN) * (len(widths) - 1) - width
