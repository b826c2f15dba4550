"""The analyzer, run in this process."""

from __future__ import annotations

from functools import partial

from tests.commands import run

analyzer = partial(run, "analyzer")
