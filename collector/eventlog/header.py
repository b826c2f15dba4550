"""DuckDB's headers, and what a damaged one held.

A file begins with three pages: what it is, and two copies of where its contents begin, the newer of which counts.
Each page starts with a checksum: the exclusive or of its other words, each multiplied by an odd number. So one word
that is wrong can be computed from the others; that it was 0, or differs in a single byte, shows which it was. Where
more is wrong, the other copy stands in, and a new file's first page for the first.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_PAGE, _PAGES = 4096, 3
_WORDS = _PAGE // 8
_SEED, _FACTOR, _RANGE = 5381, 0xBF58476D1CE4E5B9, 2**64
_INVERSE = pow(_FACTOR, -1, _RANGE)
_HIGH = 56

Words = list[int]


def repair(path: Path, fresh: Path) -> bool | None:
    """Write the headers of a damaged DuckDB file as they were, into that file.

    Args:
        path: the file, or better a copy of it.
        fresh: a sound one of the same version.

    Returns:
        Whether they are exactly as they were; False: as far as that can be; None: nothing is wrong with them.

    Raises:
        OSError: a file cannot be read or written.
    """
    with path.open("r+b") as file:
        pages = [_words(file.read(_PAGE)) for _ in range(_PAGES)]
        if all(page and _checksum(page) == page[0] for page in pages):
            return None
        found = [page and _restored(page) for page in pages]
        exact = all(found)
        with fresh.open("rb") as other:
            first = found[0] or _words(other.read(_PAGE))
        copies = (found[1] or found[2], found[2] or found[1])
        file.seek(0)
        for page in (first, *copies):
            if page:
                file.write(struct.pack(f"<{_WORDS}Q", *page))
            else:
                file.seek(_PAGE, os.SEEK_CUR)
    return exact


def _words(data: bytes) -> Words:
    return list(struct.unpack(f"<{_WORDS}Q", data)) if len(data) == _PAGE else []


def _checksum(page: Words) -> int:
    total = _SEED
    for word in page[1:]:
        total ^= word * _FACTOR % _RANGE
    return total


def _restored(page: Words) -> Words | None:
    """The page with the one word set right that explains its checksum; None: there is none."""
    difference = page[0] ^ _checksum(page)
    if not difference:
        return page
    found: list[tuple[int, int, int]] = []
    for place, word in enumerate(page):
        right = word ^ difference
        if place:
            right = (word * _FACTOR % _RANGE ^ difference) * _INVERSE % _RANGE
        if right == 0 and place:
            # Most words are 0, and only such a one could have been.
            found.append((0, place, right))
        elif _is_one_byte(word ^ right):
            # The highest byte of a product does not show of which word: one that is small otherwise is meant.
            found.append((1 if word >> _HIGH > right >> _HIGH == 0 else 2, place, right))
    if not found:
        return None
    _, place, right = min(found)
    return [*page[:place], right, *page[place + 1 :]]


def _is_one_byte(difference: int) -> bool:
    return sum(byte != 0 for byte in difference.to_bytes(8, "little")) == 1
