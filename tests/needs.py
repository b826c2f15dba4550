"""What a test needs and this machine lacks."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

# Where a change is judged: everything must run, and the same twice.
UNDER_CI = os.environ.get("CI") == "true"


def cannot_run(reason: str) -> NoReturn:
    """Skip with a reason; where everything must run, fail with it."""
    if UNDER_CI:
        pytest.fail(reason)
    pytest.skip(reason)
