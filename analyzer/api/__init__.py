"""The library: histories in, pandas DataFrames out; units stand in the columns' names.

Times are UTC (``datetime64[ns, UTC]``), durations seconds, sizes bytes. What is wrong with a log or a
policy is raised as `collector.model.errors.HindsightError`, whose text is one line for people.
"""

from __future__ import annotations

from analyzer.api.histories import Fleet, History, example_logs, open_log
from analyzer.api.recorded import disk, gaps, images, uses
from analyzer.api.simulated import Advice, earn_allowlist, free_space, policy, recommend, simulate, sweep

__all__ = [
    "Advice",
    "Fleet",
    "History",
    "disk",
    "earn_allowlist",
    "example_logs",
    "free_space",
    "gaps",
    "images",
    "open_log",
    "policy",
    "recommend",
    "simulate",
    "sweep",
    "uses",
]
