"""What other tools do about full disks, as simulator policies.

Each follows the named tool's own code, its faults included; where it leans on something that the
log does not contain, its docstring says so. A name may carry switches: ``drone-gc+exact`` books freed
bytes rightly, ``kubelet+restarts`` forgets each week what it keeps in memory, ``codefresh+remembers``
forgets no event.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

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
    KUBELET_MAX_AGE,
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

WEEK = 7 * DAY_S

BASELINES: dict[str, Callable[..., Cleaner]] = {
    "never": Never,
    "flush": Flush,
    "docker-gc": DockerGc,
    "docker-gc-12h": lambda: DockerGc(12 * HOUR_S),
    "prune-until-built": PruneUntil,
    "prune-until-local": lambda: PruneUntil(clock="local"),
    "buildkite": Buildkite,
    "clear-docker-cache-19.1": lambda: ClearDockerCache("19.1"),
    "clear-docker-cache-19.2": ClearDockerCache,
    "clear-docker-cache-19.3": lambda: ClearDockerCache("19.3"),
    "docuum": Docuum,
    "docuum-50%": lambda: Docuum(share=0.5),
    "runner-cleanup": RunnerCleanup,
    "drone-gc": DroneGc,
    "kubelet": Kubelet,
    "kubelet-maxage": lambda **switches: Kubelet(max_age=KUBELET_MAX_AGE, **switches),
    "ecs": Ecs,
    "taskcluster": Taskcluster,
    "buildkit-rank": BuildkitRank,
    "ttl-idle": TtlIdle,
    "arvados": Arvados,
    "nomad": Nomad,
    "codefresh": Codefresh,
    "stone-use": Stone,
    "stone-pull": lambda: Stone("pull"),
    "stone-job": lambda: Stone("job"),
}
DEFAULT_BASELINES = ("never", "docker-gc", "prune-until-built", "prune-until-local")
SWITCHES: dict[str, dict[str, object]] = {
    "exact": {"exact": True},
    "restarts": {"restarts": WEEK},
    "remembers": {"remembers": True},
}
# What distinguishes the variants of one tool.
_VARIANTS = {
    "docker-gc": "Grace: 24 h.",
    "docker-gc-12h": "Grace: 12 h.",
    "prune-until-built": "24 h since the build, daily: graphdrivers.",
    "prune-until-local": "24 h since the image was stored here, daily: the containerd store.",
    "clear-docker-cache-19.1": "In 19.1: what carries the runner's label, which no pulled image does.",
    "clear-docker-cache-19.2": "In 19.2: every unused image.",
    "clear-docker-cache-19.3": "In 19.3: as in 19.1.",
    "docuum-50%": "Here while images hold more than half of the disk.",
    "kubelet-maxage": "Also every image unused for 14 days.",
    "stone-use": "By observed use.",
    "stone-pull": "By pull.",
    "stone-job": "By the last job that named the image.",
}
# What a table calls a variant, where that is not its name here.
_AS_SHOWN = {
    "docker-gc-24h": "docker-gc",
    "prune-until-24h-built": "prune-until-built",
    "prune-until-24h-local": "prune-until-local",
}
_SWITCHED = {
    "runner-cleanup": ("restarts",),
    "drone-gc": ("exact", "restarts"),
    "kubelet": ("exact", "restarts"),
    "kubelet-maxage": ("exact", "restarts"),
    "arvados": ("exact", "restarts"),
    "nomad": ("restarts",),
    "codefresh": ("remembers",),
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
    chosen: dict[str, object] = {}
    has = _SWITCHED.get(name, ())
    for switch in switches:
        if switch not in has:
            known = " and ".join(f"+{known}" for known in has) or "none"
            raise UsageError(
                f"--baseline: '{name}' has no switch '+{switch}'; it has {known}{did_you_mean(switch, has)}"
            )
        chosen |= SWITCHES[switch]
    made = BASELINES[name](**chosen)
    made.name = text if switches else made.name
    return made


def meanings() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Of each baseline, in a line, what it does; and its switches."""
    return {name: (_meaning(name, make()), _SWITCHED.get(name, ())) for name, make in BASELINES.items()}


def _meaning(name: str, made: Cleaner) -> str:
    """The first line of its documentation as plain text, and what is special about this variant."""
    line = (inspect.getdoc(type(made)) or "").partition("\n")[0].replace("``", "`").replace("*", "")
    return f"{line} {_VARIANTS.get(name, '')}".rstrip()
