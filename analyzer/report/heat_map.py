"""Hosts as a heat map: a line for each, a column for each day, and colours for the least free space of that day.

It is a picture of its own, made here: a thousand hosts and a year are a hundred kilobytes, and nothing is left for the
browser to draw.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.trace.daily import STEPS, UNKNOWN, DailyFree

MOST_COLUMNS = 400
_FEW = 40
_COLOURS = 256
# Up to this share of free space, the colour: from dark red over orange and yellow to blue, which all eyes can order.
_SCALE = (
    (0.01, (103, 0, 31)),
    (0.03, (178, 24, 43)),
    (0.05, (214, 96, 77)),
    (0.10, (244, 165, 130)),
    (0.15, (253, 219, 169)),
    (0.25, (209, 229, 240)),
    (0.40, (146, 197, 222)),
    (0.60, (67, 147, 195)),
    (1.01, (33, 102, 172)),
)
_NOTHING = (200, 200, 200)


@dataclass(frozen=True, slots=True)
class HeatMap:
    """The picture.

    Attributes:
        source: it, as an address that holds its data.
        rows: how many hosts.
        columns: how many columns.
        days: how many days a column stands for.
        first: the first day, in days since 1970 (UTC).
        last: the last one.
        key: the scale: up to how many per cent free, and the colour.
    """

    source: str
    rows: int
    columns: int
    days: int
    first: int
    last: int
    key: tuple[tuple[str, str], ...]

    @property
    def height(self) -> int:
        """How high it is shown, in points: lines of a few hosts can be counted, those of a thousand are one each."""
        return 12 * self.rows if self.rows <= _FEW else max(12 * _FEW, self.rows)


def heat_map(hosts: Sequence[DailyFree]) -> HeatMap | None:
    """The heat map of hosts, in this order from above; None without any."""
    if not hosts:
        return None
    first = min(one.first for one in hosts)
    last = max(one.first + len(one.shares) - 1 for one in hosts)
    days = -(-(last - first + 1) // MOST_COLUMNS)
    columns = -(-(last - first + 1) // days)
    lines = b"".join(b"\0" + _line(one, first, columns, days) for one in hosts)
    key = tuple((f"{share:.0%}", f"rgb{colour}".replace(" ", "")) for share, colour in _SCALE)
    source = "data:image/png;base64," + base64.b64encode(_png(columns, len(hosts), lines)).decode()
    return HeatMap(source, len(hosts), columns, days, first, last, key)


def _line(one: DailyFree, first: int, columns: int, days: int) -> bytes:
    """One host's row: each column is the least of its days."""
    padded = bytes([UNKNOWN]) * (one.first - first) + one.shares
    padded += bytes([UNKNOWN]) * (columns * days - len(padded))
    return bytes(min(padded[k * days : (k + 1) * days]) for k in range(columns))


def _png(width: int, height: int, lines: bytes) -> bytes:
    """A picture with a palette: one byte for each point."""
    palette = b"".join(bytes(_colour(index)) for index in range(_COLOURS))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    made = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        made += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


def _colour(index: int) -> tuple[int, int, int]:
    if index > STEPS:
        return _NOTHING
    return next(colour for share, colour in _SCALE if index / STEPS < share)
