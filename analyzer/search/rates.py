"""How soon images returned on the hosts of a fleet, counted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.simulation.knowledge import Knowledge
from analyzer.simulation.replay import Progress
from analyzer.trace.trace import Floats, Trace
from pruner.state.rates import to_toml


@dataclass(frozen=True, slots=True, eq=False)
class HostRates:
    """What was counted on one host.

    Attributes:
        host: its name.
        seconds: how long its history is.
        returns: idle times that ended in a use, by situation (`pruner.state.learning.situation`).
        exposure: idle time in seconds, likewise.
    """

    host: str
    seconds: float
    returns: Floats
    exposure: Floats


@dataclass(frozen=True, slots=True)
class Count:
    """Work on one host: count returns up to the last midnight."""

    def __call__(self, trace: Trace, progress: Progress | None = None) -> HostRates:  # noqa: ARG002 - it is quick
        """What was counted there."""
        returns, exposure = Knowledge(trace).learned
        return HostRates(trace.host, trace.end, returns[-1], exposure[-1])


def rates_file(found: Sequence[HostRates]) -> str:
    """The file of what was counted on all hosts, for `rates` in a policy."""
    returns = sum((one.returns for one in found[1:]), found[0].returns)
    exposure = sum((one.exposure for one in found[1:]), found[0].exposure)
    return to_toml(returns.tolist(), exposure.tolist(), [one.host for one in found], sum(one.seconds for one in found))
