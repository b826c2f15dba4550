"""What a test needs and this machine lacks, and how much of a test is wanted."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

# Where a change is judged: everything must run, and the same twice.
UNDER_CI = os.environ.get("CI") == "true"
# `make test-fast`: while one works, a tenth of the examples shows most of what all would.
FAST = os.environ.get("TESTS") == "fast"


def examples(count: int) -> int:
    """How many examples of a property to try: so many where a change is judged."""
    return max(5, count // 10) if FAST else count


def first_fast(*cases: object) -> list[object]:
    """Cases of a test, one value each, of which `make test-fast` runs the first alone."""
    first, *others = cases
    return [first, *(pytest.param(case, marks=pytest.mark.slow) for case in others)]


def first_row_fast(*rows: tuple[object, ...]) -> list[object]:
    """The same of cases that are rows of values."""
    first, *others = rows
    return [first, *(pytest.param(*row, marks=pytest.mark.slow) for row in others)]


def cannot_run(reason: str) -> NoReturn:
    """Skip with a reason; where everything must run, fail with it."""
    if UNDER_CI:
        pytest.fail(reason)
    pytest.skip(reason)
