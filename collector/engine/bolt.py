"""Reads single values of a bolt database, the kind of file in which containerd keeps its metadata.

The file belongs to a running process: nothing is locked, written or mapped. A reading counts only if
no newer state was committed meanwhile, for then no page that it looked at can have been reused.

The format: pages of equal size, each with a header; a tree of branch and leaf pages for each bucket;
small buckets lie inside the leaf that names them. The first two pages hold the root's address, in
turns, with a transaction number and a checksum (go.etcd.io/bbolt, `page.go`, `bucket.go`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from collector.model.paths import open_foreign

_MAGIC = 0xED0CDAED
_VERSION = 2
_META = struct.Struct("<IIIIQQQQQQ")
_PAGE = struct.Struct("<QHHI")
_BRANCH = struct.Struct("<IIQ")
_LEAF = struct.Struct("<IIII")
_BUCKET = struct.Struct("<QQ")
_BRANCH_PAGE, _LEAF_PAGE = 0x01, 0x02
_IS_BUCKET = 0x01
_LEAST_PAGE, _MOST_PAGE = 512, 65536
_MOST_OVERFLOW = 4096
# Pages whose children are themselves have branches without number, however deep one looks.
_MOST_READS = 10**6
_MOST_DEPTH = 32
_TRIES = 5
_FNV_START, _FNV_PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


class BoltError(Exception):
    """The file cannot be read, or is not of this kind."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key with its value, or with the bucket that it names."""

    key: bytes
    value: bytes
    is_bucket: bool


def read_in_children(path: Path, way: Sequence[bytes], rest: Sequence[bytes]) -> list[dict[bytes, bytes]]:
    """The plain values of one bucket in each bucket in a bucket; those that lack it give none.

    Args:
        path: the file.
        way: the keys that lead to the bucket from the root.
        rest: the keys that lead on from each bucket in it.

    Raises:
        BoltError: it cannot be read, or is changed faster than it can be read.
    """
    try:
        with open_foreign(path) as file:
            descriptor = file.fileno()
            for _ in range(_TRIES):
                state = _newest(descriptor)
                try:
                    found = list(_in_children(_Pages(descriptor, state), way, rest))
                except (BoltError, struct.error, OverflowError) as error:
                    if _newest(descriptor) == state:
                        raise BoltError(f"{path}: {error}") from None
                    continue
                if _newest(descriptor) == state:
                    return found
    except OSError as error:
        raise BoltError(f"{path}: {error.strerror}") from None
    raise BoltError(f"{path} changes faster than it can be read")


def _in_children(pages: _Pages, way: Sequence[bytes], rest: Sequence[bytes]) -> Iterator[dict[bytes, bytes]]:
    parent = _page(pages, pages.read(pages.root), way)
    for child in _entries(pages, parent) if parent is not None else ():
        if child.is_bucket and (page := _page(pages, _inside(pages, child), rest)) is not None:
            yield {entry.key: entry.value for entry in _entries(pages, page) if not entry.is_bucket}


@dataclass(frozen=True, slots=True)
class _State:
    """A committed state of the database: its number and where its root lies."""

    transaction: int
    root: int
    page_size: int


def _newest(descriptor: int) -> _State:
    """The latest state that was committed whole."""
    found = [state for state in (_state(descriptor, 0), _second(descriptor)) if state is not None]
    if not found:
        raise BoltError("no database of this kind")
    return max(found, key=lambda state: state.transaction)


def _second(descriptor: int) -> _State | None:
    """The state of the second page; the first says where that begins; if not, likely places are tried."""
    first = _state(descriptor, 0)
    sizes = [first.page_size] if first else [1 << power for power in range(9, 17)]
    return next((state for size in sizes if (state := _state(descriptor, size)) is not None), None)


def _state(descriptor: int, offset: int) -> _State | None:
    raw = os.pread(descriptor, _META.size, offset + _PAGE.size)
    if len(raw) < _META.size:
        return None
    magic, version, page_size, _, root, _, _, _, transaction, checksum = _META.unpack(raw)
    sound = magic == _MAGIC and version == _VERSION and _LEAST_PAGE <= page_size <= _MOST_PAGE
    return _State(transaction, root, page_size) if sound and checksum == _fnv(raw[:-8]) else None


def _fnv(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    found = _FNV_START
    for byte in data:
        found = ((found ^ byte) * _FNV_PRIME) & _MASK
    return found


class _Pages:
    """The pages of one state."""

    def __init__(self, descriptor: int, state: _State) -> None:
        self._descriptor = descriptor
        self._size = state.page_size
        self._left = _MOST_READS
        self.root = state.root

    def read(self, number: int) -> bytes:
        """A page with what overflows it."""
        self._left -= 1
        if self._left < 0:
            raise BoltError("a tree without end")
        offset = number * self._size
        raw = os.pread(self._descriptor, self._size, offset)
        if len(raw) < _PAGE.size:
            raise BoltError("a page beyond the end")
        overflow = _PAGE.unpack_from(raw)[3]
        if overflow > _MOST_OVERFLOW:
            raise BoltError("not a page of it")
        return raw + os.pread(self._descriptor, overflow * self._size, offset + self._size) if overflow else raw


def _page(pages: _Pages, page: bytes, way: Sequence[bytes]) -> bytes | None:
    """The topmost page of a bucket somewhere in another; None: there is none."""
    for key in way:
        entry = _seek(pages, page, key)
        if entry is None or not entry.is_bucket:
            return None
        page = _inside(pages, entry)
    return page


def _inside(pages: _Pages, bucket: _Entry) -> bytes:
    root = _BUCKET.unpack_from(bucket.value)[0]
    return pages.read(root) if root else bucket.value[_BUCKET.size :]


def _seek(pages: _Pages, page: bytes, key: bytes) -> _Entry | None:
    """The entry of a key at or under a page."""
    for _ in range(_MOST_DEPTH):
        if _flags(page) & _LEAF_PAGE:
            return next((entry for entry in _leaves(page) if entry.key == key), None)
        below = [number for first, number in _branches(page) if first <= key]
        if not below:
            return None
        page = pages.read(below[-1])
    raise BoltError("a tree without end")


def _entries(pages: _Pages, page: bytes, depth: int = 0) -> Iterator[_Entry]:
    """All entries at or under a page."""
    if depth > _MOST_DEPTH:
        raise BoltError("a tree without end")
    if _flags(page) & _LEAF_PAGE:
        yield from _leaves(page)
        return
    for _, number in _branches(page):
        yield from _entries(pages, pages.read(number), depth + 1)


def _flags(page: bytes) -> int:
    try:
        flags: int = _PAGE.unpack_from(page)[1]
    except struct.error:
        raise BoltError("not a page of it") from None
    if not flags & (_BRANCH_PAGE | _LEAF_PAGE):
        raise BoltError("not a page of it")
    return flags


def _branches(page: bytes) -> Iterator[tuple[bytes, int]]:
    for place in _places(page, _BRANCH):
        position, size, number = _BRANCH.unpack_from(page, place)
        yield page[place + position : place + position + size], number


def _leaves(page: bytes) -> Iterator[_Entry]:
    for place in _places(page, _LEAF):
        flags, position, key_size, value_size = _LEAF.unpack_from(page, place)
        begin = place + position
        end = begin + key_size
        yield _Entry(page[begin:end], page[end : end + value_size], bool(flags & _IS_BUCKET))


def _places(page: bytes, element: struct.Struct) -> Iterator[int]:
    count = _PAGE.unpack_from(page)[2]
    if _PAGE.size + count * element.size > len(page):
        raise BoltError("not a page of it")
    return iter(range(_PAGE.size, _PAGE.size + count * element.size, element.size))
