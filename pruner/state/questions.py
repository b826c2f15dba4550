"""Questions to the engine that may go unanswered, and what distinguishes that from an engine that is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from collector.engine.deadline import at_most
from collector.engine.protocol import Engine
from collector.model.errors import DeadlineError, EngineError, UnansweredError

T = TypeVar("T")


def is_lost(engine: Engine, error: EngineError) -> bool:
    """Whether an error means that there is no engine, or no time, rather than one question without an answer.

    An engine that fails over one thing may hang up in the middle of its answer, each time that it is asked.
    """
    if isinstance(error, DeadlineError):
        return True
    if isinstance(error, UnansweredError):
        return False
    try:
        engine.info()
    except EngineError:
        return True
    return False


class Questions:
    """Questions to the engine that a decision can do without: one that fails is a warning.

    Args:
        engine: which is asked.
        deadline: seconds that a whole run may take: one of these questions gets a quarter, all of them get half.
    """

    def __init__(self, engine: Engine, deadline: float) -> None:
        self._engine = engine
        self._each, self._left = deadline / 4, deadline / 2
        self._faults: dict[str, list[EngineError]] = {}

    @property
    def faults(self) -> tuple[str, ...]:
        """What was not answered, and what follows from it, one line each."""
        return tuple(
            f"{consequence}: {errors[0]}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
            for consequence, errors in self._faults.items()
        )

    def ask(self, question: Callable[[], T], otherwise: T, consequence: str) -> T:
        """The answer; `otherwise` where the engine gives none.

        Args:
            question: asks.
            otherwise: what stands in for the answer.
            consequence: what follows from its failing, in words.

        Raises:
            EngineError: the engine is gone, which is more than a question without an answer.
        """
        began = time.monotonic()
        try:
            with at_most(min(self._each, max(0.0, self._left))):
                return question()
        except EngineError as error:
            if is_lost(self._engine, error):
                raise
            self._faults.setdefault(consequence, []).append(error)
            return otherwise
        finally:
            self._left -= time.monotonic() - began
