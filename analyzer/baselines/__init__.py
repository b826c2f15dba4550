"""What other tools do about full disks, as simulator policies.

Each follows the named tool's own code, its faults included; where it leans on something that the
log does not contain, its docstring says so. A name may carry switches: ``drone-gc+exact`` books freed
bytes rightly, ``kubelet+restarts`` forgets each week what it keeps in memory, ``codefresh+remembers``
forgets no event.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from analyzer.baselines.base import Baseline, Never
from analyzer.baselines.by_age import (
    Buildkite,
    ClearDockerCache,
    DockerGc,
    Ecs,
    Nomad,
    PruneUntil,
    Taskcluster,
    TtlIdle,
)
from analyzer.baselines.by_events import Codefresh
from analyzer.baselines.by_space import (
    Arvados,
    BuildkitRank,
    Docuum,
    DroneGc,
    Flush,
    Kubelet,
    RunnerCleanup,
    Stone,
)
from analyzer.simulation.cleaner import Cleaner
from collector.model.choices import did_you_mean, unknown
from collector.model.errors import UsageError
from collector.model.units import DAY_S, HOUR_S

__all__ = ["BASELINES", "DEFAULT_BASELINES", "Baseline", "baseline", "meanings"]


class Known(NamedTuple):
    """How a baseline is made, and what distinguishes this variant of its tool, in words; empty: there is one only."""

    make: Callable[..., Cleaner]
    variant: str = ""


BASELINES: dict[str, Known] = {
    "never": Known(Never),
    "flush": Known(Flush),
    "docker-gc": Known(DockerGc, "Grace: 24 h."),
    "docker-gc-12h": Known(partial(DockerGc, 12 * HOUR_S), "Grace: 12 h."),
    "prune-until-built": Known(PruneUntil, "24 h since the build, daily: graphdrivers."),
    "prune-until-local": Known(
        partial(PruneUntil, clock="local"), "24 h since the image was stored here, daily: the containerd store."
    ),
    "buildkite": Known(Buildkite),
    "clear-docker-cache-19.1": Known(
        partial(ClearDockerCache, "19.1"), "In 19.1: what carries the runner's label, which no pulled image does."
    ),
    "clear-docker-cache-19.2": Known(ClearDockerCache, "In 19.2: every unused image."),
    "clear-docker-cache-19.3": Known(partial(ClearDockerCache, "19.3"), "In 19.3: as in 19.1."),
    "docuum": Known(Docuum),
    "docuum-50%": Known(partial(Docuum, share=0.5), "Here while images hold more than half of the disk."),
    "runner-cleanup": Known(RunnerCleanup),
    "drone-gc": Known(DroneGc),
    "kubelet": Known(Kubelet),
    "kubelet-maxage": Known(partial(Kubelet, max_age=14 * DAY_S), "Also every image unused for 14 days."),
    "ecs": Known(Ecs),
    "taskcluster": Known(Taskcluster),
    "buildkit-rank": Known(BuildkitRank),
    "ttl-idle": Known(TtlIdle),
    "arvados": Known(Arvados),
    "nomad": Known(Nomad),
    "codefresh": Known(Codefresh),
    "stone-use": Known(Stone, "By observed use."),
    "stone-pull": Known(partial(Stone, "pull"), "By pull."),
    "stone-job": Known(partial(Stone, "job"), "By the last job that named the image."),
}
DEFAULT_BASELINES = ("never", "docker-gc", "prune-until-built", "prune-until-local")
# What each switch sets; a baseline whose class takes that has it.
_SWITCHES: dict[str, object] = {"exact": True, "restarts": 7 * DAY_S, "remembers": True}
# What a table calls a variant, where that is not its name here.
_AS_SHOWN = {
    "docker-gc-24h": "docker-gc",
    "prune-until-24h-built": "prune-until-built",
    "prune-until-24h-local": "prune-until-local",
}


def baseline(text: str) -> Cleaner:
    """The baseline of a name, with switches after ``+``.

    Raises:
        UsageError: there is no such baseline, or it has no such switch.
    """
    name, *switches = text.split("+")
    name = _AS_SHOWN.get(name, name)
    if name not in BASELINES:
        raise UsageError(f"--baseline: unknown '{name}'{unknown(name, (*BASELINES, 'all', 'none'))}")
    has = _switches(name)
    for switch in switches:
        if switch not in has:
            known = " and ".join(f"+{known}" for known in has) or "none"
            raise UsageError(
                f"--baseline: '{name}' has no switch '+{switch}'; it has {known}{did_you_mean(switch, has)}"
            )
    made = BASELINES[name].make(**{switch: _SWITCHES[switch] for switch in switches})
    made.name = text if switches else made.name
    return made


def _switches(name: str) -> tuple[str, ...]:
    taken = inspect.signature(BASELINES[name].make).parameters
    return tuple(switch for switch in _SWITCHES if switch in taken)


def meanings() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Of each baseline, in a line, what it does; and its switches."""
    return {name: (_meaning(known), _switches(name)) for name, known in BASELINES.items()}


def _meaning(known: Known) -> str:
    """The first line of its documentation as plain text, and what is special about this variant."""
    line = (inspect.getdoc(type(known.make())) or "").partition("\n")[0].replace("``", "`").replace("*", "")
    return f"{line} {known.variant}".rstrip()
