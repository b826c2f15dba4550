"""Rates of return from which a forecast starts, of other hosts; `tools/population.py` makes the file, see there how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

_TABLES = json.loads(Path(__file__).with_name("population.json").read_text(encoding="ascii"))
BY_AGE: Sequence[float] = _TABLES["BY_AGE"]
"""Per age: returns per idle time so far."""
BY_STAGE: Sequence[Sequence[float]] = _TABLES["BY_STAGE"]
"""Per age, then stage: the rate relative to that of the age."""
BY_HABIT: Sequence[Sequence[Sequence[float]]] = _TABLES["BY_HABIT"]
"""Per age, then habit, then stage: the rate relative to that of the age and stage."""
BY_USE: Sequence[Sequence[Sequence[Sequence[int]]]] = _TABLES["BY_USE"]
"""Per chance as forecast, stage, use count, and recent uses of the repository: thousandths of it."""
