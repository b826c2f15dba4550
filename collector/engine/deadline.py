"""A time limit for all questions to an engine, however slowly it answers.

A client library's timeout begins again with each byte, so an engine that sends one now and then is waited
for without end. The alarm interrupts only a call to the engine, never what is done with its answers:
what was removed is recorded.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from collector.model.errors import DeadlineError, EngineError, UnansweredError
from collector.model.units import format_duration

# A timer of zero does not fire.
_SOON_S = 0.001


@dataclass(frozen=True, slots=True)
class _End:
    """When nothing more may be asked (of the monotonic clock, seconds), and what is raised then."""

    at: float
    error: type[EngineError]
    words: str


@dataclass(slots=True)
class _Clock:
    """The ends that hold for the main thread, which alone hears signals.

    Attributes:
        calls: how many calls to an engine it is in, one within another.
        ends: the outermost first.
    """

    calls: int = 0
    ends: list[_End] = field(default_factory=list)

    def check(self, cause: Exception | None) -> None:
        """Raise if an end has passed; the outermost of those counts."""
        now = time.monotonic()
        passed = next((end for end in self.ends if end.at <= now), None)
        if passed is not None:
            raise passed.error(passed.words) from cause

    def ring(self, _: int, __: FrameType | None) -> None:
        """The alarm: end the call that is under way."""
        self.wind()
        if self.calls:
            self.check(None)

    def wind(self) -> None:
        """Set the alarm to the next end."""
        now = time.monotonic()
        ahead = [end.at - now for end in self.ends if end.at > now]
        signal.setitimer(signal.ITIMER_REAL, max(_SOON_S, min(ahead)) if ahead else 0.0)


_clock = _Clock()


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def within(seconds: float) -> AbstractContextManager[None]:
    """Let no call to an engine go on for longer than until then; outside of the main thread it does nothing.

    Args:
        seconds: from now on.

    Raises:
        DeadlineError: a call was under way then, or was begun afterwards.
    """
    words = f"the engine took too long: the deadline of {format_duration(seconds)} has passed"
    return _ending(_End(time.monotonic() + seconds, DeadlineError, words))


def at_most(seconds: float) -> AbstractContextManager[None]:
    """Let what the body asks take no longer than this all together, within what remains until a deadline.

    Args:
        seconds: from now on.

    Raises:
        UnansweredError: a call was under way then, or was begun afterwards.
    """
    words = f"the engine did not answer within {format_duration(seconds)}"
    return _ending(_End(time.monotonic() + seconds, UnansweredError, words))


@contextmanager
def _ending(end: _End) -> Iterator[None]:
    if not _is_main():
        yield
        return
    before = signal.signal(signal.SIGALRM, _clock.ring)
    others = signal.getitimer(signal.ITIMER_REAL)
    _clock.ends.append(end)
    _clock.wind()
    try:
        yield
    finally:
        _clock.ends.pop()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if _clock.ends:
            _clock.wind()
        else:
            signal.setitimer(signal.ITIMER_REAL, *others)


@contextmanager
def call() -> Iterator[None]:
    """Mark a call to an engine, which the alarm may interrupt. Raises DeadlineError, UnansweredError."""
    if not _is_main():
        yield
        return
    _clock.check(None)
    _clock.calls += 1
    try:
        yield
    except DeadlineError:
        raise
    except Exception as error:
        # A client library may take the alarm for a fault of its own.
        _clock.check(error)
        raise
    finally:
        _clock.calls -= 1
