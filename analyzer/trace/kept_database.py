"""Databases in memory for one host after another: what does not differ between hosts is made once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb

from collector.eventlog.database import AUTOLOAD_OFF
from collector.eventlog.views import turn_to_another_log

_kept = threading.local()
_number = itertools.count()
# So many bytes of memory are asked for once and then kept for the next host: to get them from the system each time
# takes as long as to read a host's year.
_KEPT = "256MB"
# And it would keep a little more after each: so many hosts later a new one begins with as little as the first.
_HOSTS = 24


@dataclass(slots=True)
class Database:
    """A database in memory.

    Attributes:
        filling: a connection that shows its tables.
        shown: one on which our views stand before them.
        is_shown: whether it has these views already.
    """

    filling: duckdb.DuckDBPyConnection
    shown: duckdb.DuckDBPyConnection
    is_shown: bool


@contextmanager
def in_memory() -> Iterator[Database]:
    """An empty database in memory."""
    # To make the views takes as long as to replay ten policies. They find tables by name: those of a host before serve.
    kept, _kept.shown = getattr(_kept, "shown", None), None
    name, shown = kept or (f"log{next(_number)}", None)
    engine = _engine()
    with engine.cursor() as filling:
        filling.execute(f"ATTACH ':memory:' AS {name}; USE {name}")
        made = Database(filling, shown or engine.cursor(), is_shown=shown is not None)
        turn_to_another_log(made.shown)
        made.shown.execute(f"USE {name}")
        try:
            yield made
        finally:
            made.shown.execute("USE memory")
            filling.execute(f"USE memory; DETACH {name}")
    if getattr(_kept, "engine", None) is engine:
        _kept.shown = name, made.shown
        _kept.hosts = getattr(_kept, "hosts", 0) + 1
        if _kept.hosts == _HOSTS:
            let_memory_go()


def let_memory_go() -> None:
    """Give back what this thread keeps for the next host."""
    _kept.__dict__.clear()


def _engine() -> duckdb.DuckDBPyConnection:
    """This thread's DuckDB, which outlasts a host."""
    if not hasattr(_kept, "engine"):
        # A thread more costs a small file more time than it saves.
        config: dict[str, Any] = {**AUTOLOAD_OFF, "threads": 1}
        try:
            _kept.engine = duckdb.connect(config={**config, "block_allocator_memory": _KEPT})
        except duckdb.Error:  # an older DuckDB has no such setting
            _kept.engine = duckdb.connect(config=config)
    engine: duckdb.DuckDBPyConnection = _kept.engine
    return engine
