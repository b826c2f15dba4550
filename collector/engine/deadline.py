"""An end to all that is asked of an engine, however slowly it answers.

A client library's timeout begins again with each byte, so an engine that sends one now and then is waited
for without end. The alarm interrupts only a call to the engine, never what is done with its answers:
what was removed is recorded.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from collector.model.errors import DeadlineError
from collector.model.units import format_duration


@dataclass(slots=True)
class _Clock:
    """The deadline of the main thread, which alone hears signals.

    Attributes:
        calls: how many calls to an engine it is in, one within another.
        over: why nothing more may be asked; None: there is time.
    """

    calls: int = 0
    over: str | None = None


_clock = _Clock()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let no call to an engine go on for longer than until then; outside of the main thread it does nothing.

    Args:
        seconds: from now on.

    Raises:
        DeadlineError: a call was under way then, or was begun afterwards.
    """
    if not _is_main():
        yield
        return

    def ring(_: int, __: FrameType | None) -> None:
        _clock.over = f"the engine took too long: the deadline of {format_duration(seconds)} has passed"
        if _clock.calls:
            raise DeadlineError(_clock.over)

    before = signal.signal(signal.SIGALRM, ring)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)
        _clock.over = None


@contextmanager
def call() -> Iterator[None]:
    """Mark a call to an engine, which the deadline may interrupt. Raises DeadlineError."""
    if not _is_main():
        yield
        return
    _check(None)
    _clock.calls += 1
    try:
        yield
    except DeadlineError:
        raise
    except Exception as error:
        # A client library may take the alarm for a fault of its own.
        _check(error)
        raise
    finally:
        _clock.calls -= 1


def _check(cause: Exception | None) -> None:
    if _clock.over is not None:
        raise DeadlineError(_clock.over) from cause
