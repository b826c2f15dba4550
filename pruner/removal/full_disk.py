"""A disk that is completely full: what the engine says then, and the blocks that are kept for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from collector.engine.protocol import Engine
from collector.machine.disk import sample_disks
from collector.machine.reserve import reserves
from collector.model.errors import EngineError, EngineRefusedError
from collector.model.units import format_bytes

logger = logging.getLogger(__name__)

T = TypeVar("T")
# What engines say when they cannot write.
_NO_SPACE = ("no space left on device", "disk quota exceeded")
BY_HAND = (
    "Get one block by hand: empty the log of a container (truncate -s 0 LOGFILE), or remove any file on that "
    "disk that you can spare; then run this again (see docs/howto/disk-full.md)"
)
STUCK = (
    "{path} is completely full: the engine cannot write what it has to write to remove {name}. Nothing more is "
    f"tried. {BY_HAND}"
)


def wants_space(refusal: str) -> bool:
    """Whether an engine refused something because it could not write."""
    return any(words in refusal.lower() for words in _NO_SPACE)


def give_reserves(log_path: Path, folders: Sequence[str]) -> bool:
    """Give back what is kept for a disk that is full; whether there was any such disk.

    Args:
        log_path: the event log.
        folders: a folder on each disk of the engine's.
    """
    given = [reserve for reserve in reserves(log_path, folders) if reserve.give()]
    for reserve in given:
        kept = format_bytes(reserve.size)
        logger.warning("the disk is full: the reserve of %s at %s is released", kept, reserve.path)
    return bool(given)


def with_reserves(engine: Engine, log_path: Path, ask: Callable[[], T]) -> T:
    """The answer to a question; an engine that cannot even list what it holds without a block gets the reserve's.

    Podman writes a file for each image that it lists.

    Args:
        engine: which is asked.
        log_path: the event log.
        ask: asks.

    Raises:
        EngineError: the engine is gone, or there is no block for it.
    """
    try:
        return ask()
    except EngineRefusedError as refused:
        if not wants_space(refused.explanation):
            raise
        if not give_reserves(log_path, [disk.path for disk in sample_disks(engine.info())]):
            raise EngineError(f"{refused}: its disk is completely full. {BY_HAND}") from refused
    return ask()
