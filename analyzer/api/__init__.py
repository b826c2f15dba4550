"""The library: histories in, pandas DataFrames out; units stand in the columns' names.

Times are UTC (``datetime64[ns, UTC]``), durations seconds, sizes bytes. What is wrong with a log or a
policy is raised as `collector.model.errors.HindsightError`, whose text is one line for people.
"""

from __future__ import annotations

from analyzer.api.histories import Fleet as Fleet
from analyzer.api.histories import History as History
from analyzer.api.histories import example_logs as example_logs
from analyzer.api.histories import open_log as open_log
from analyzer.api.recorded import disk as disk
from analyzer.api.recorded import gaps as gaps
from analyzer.api.recorded import images as images
from analyzer.api.recorded import uses as uses
from analyzer.api.simulated import Advice as Advice
from analyzer.api.simulated import earn_allowlist as earn_allowlist
from analyzer.api.simulated import free_space as free_space
from analyzer.api.simulated import policy as policy
from analyzer.api.simulated import recommend as recommend
from analyzer.api.simulated import simulate as simulate
from analyzer.api.simulated import sweep as sweep
