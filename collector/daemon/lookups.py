"""What the engine is asked while events are translated."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from collector.engine.protocol import Engine
from collector.model.errors import EngineError
from collector.model.observation import CreatedFrom

logger = logging.getLogger(__name__)
T = TypeVar("T")

_RETRY_S = 0.5


class Lookups:
    """Lookups that never fail: an engine that is gone knows nothing, and events are taken all the same."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._next = 0.0

    def resolve(self, reference: str) -> str | None:
        """The image ID that a reference means now."""
        return self._ask(self._engine.resolve, reference)

    def created_from(self, container: str) -> CreatedFrom:
        """What a container was created from."""
        return self._ask(self._engine.created_from, container) or CreatedFrom()

    def _ask(self, question: Callable[[str], T | None], subject: str) -> T | None:
        if time.monotonic() < self._next:
            return None
        try:
            return question(subject)
        except EngineError as error:
            logger.debug("%s is unknown: %s", subject, error)
            # An engine that does not answer must not be waited for once for each event.
            self._next = time.monotonic() + _RETRY_S
            return None
