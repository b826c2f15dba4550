"""Every combination of some settings on one history, for a page on which they can be switched. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analyzer.kernel.runs import Wake
from analyzer.search.grid import TIMER_ONLY, Candidate
from analyzer.search.pareto import possible
from analyzer.search.proposal import Proposal
from analyzer.simulation.cleaner import PolicyCleaner, Trigger
from analyzer.simulation.replay import Progress, replay_many
from analyzer.simulation.result import Result
from analyzer.trace.trace import Trace
from collector.model.errors import UsageError
from pruner.policy.file import as_text, policy_from, value_of
from pruner.policy.local_images import LOCAL_IMAGES
from pruner.policy.policy import AUTO, Policy

THRESHOLD, ALLOWLIST, TRIGGER = "threshold", "allowlist", "trigger"
# The keys that can be switched beside the threshold, and what is offered beside the policies' own values.
_OFFERED: Mapping[str, tuple[str, ...]] = {
    "order": ("forecast", "lru", "hazard"),
    "min_age": ("auto", "1h"),
    "local_images": LOCAL_IMAGES,
}
_TRIGGERS = {"event": Trigger.EVENT, "timer only": Trigger.TICK}
_MOST = 600
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """What can be switched: a key of the policy (or ``trigger``), and its values as one writes them."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Policies for every combination of some settings.

    Attributes:
        settings: what can be switched, the threshold last.
        candidates: a policy for each combination; the last setting varies fastest.
        start: which value of each setting is shown first.
        marked: whether that is a recommendation.
    """

    settings: tuple[Setting, ...]
    candidates: tuple[Candidate, ...]
    start: tuple[int, ...]
    marked: bool

    @property
    def thresholds(self) -> int:
        """How many policies differ in nothing but the threshold, and stand side by side."""
        return len(self.settings[-1].values)

    @classmethod
    def of(
        cls,
        trace: Trace,
        asked: Sequence[Policy],
        tried: Sequence[Candidate],
        proposal: Proposal,
        trigger: Trigger | None = None,
    ) -> WhatIf | None:
        """The settings that the policies that were asked for and those that a search tried differ in.

        Args:
            trace: the history; thresholds that are impossible on its disk are left out.
            asked: the policies that were asked for.
            tried: those that a recommendation was chosen from.
            proposal: the recommendation.
            trigger: what starts a prune; None: both can be tried.

        Returns:
            None if there is nothing to switch.
        """
        if not asked and proposal.policy is None:
            return None
        base = proposal.policy or asked[0]
        first = next((item.trigger for item in tried if item.name == proposal.name), None) or trigger or Trigger.EVENT
        values = _values(trace, base, asked, [item.policy for item in tried], trigger)
        candidates = [
            _candidate(base, dict(zip(values, chosen, strict=True)))
            for chosen in itertools.product(*(known.values() for known in values.values()))
        ]
        width = len(values[THRESHOLD])
        fit = {item.name for item in _possible(trace, candidates)}
        kept = [k for k in range(width) if all(item.name in fit for item in candidates[k::width])]
        if not kept:
            return None
        texts = list(values[THRESHOLD])
        values[THRESHOLD] = {texts[k]: values[THRESHOLD][texts[k]] for k in kept}
        wanted = {**{key: value_of(base, key) for key in values if key != TRIGGER}, TRIGGER: first}
        return cls(
            tuple(Setting(key, tuple(known)) for key, known in values.items()),
            tuple(item for k, item in enumerate(candidates) if k % width in kept),
            tuple(next(k for k, v in enumerate(known.values()) if v == wanted[key]) for key, known in values.items()),
            proposal.holds,
        )

    def results(
        self, trace: Trace, pull_rate: float | None = None, progress: Progress | None = None
    ) -> Iterator[Result]:
        """Each candidate's result with its timeline, in order; made some at a time, for timelines are long.

        Raises:
            LogError: the trace is too poor for a sound figure.
        """
        wake = Wake(pull_rate=pull_rate or trace.pull_rate)
        for first in range(0, len(self.candidates), _AT_ONCE):
            some = self.candidates[first : first + _AT_ONCE]
            runs = [PolicyCleaner(item.policy, trace, item.name, item.trigger or Trigger.EVENT, wake) for item in some]
            yield from replay_many(trace, runs, pull_rate=pull_rate, timeline=True, removals=False)
            if progress:
                progress((first + len(some)) / len(self.candidates))

    @property
    def first_trigger(self) -> Trigger:
        """What starts a prune of the policy that is shown first."""
        return self.candidates[self.place].trigger or Trigger.EVENT

    @property
    def place(self) -> int:
        """Which of the candidates is shown first."""
        number = 0
        for setting, value in zip(self.settings, self.start, strict=True):
            number = number * len(setting.values) + value
        return number


Values = dict[str, dict[str, Any]]


def _values(
    trace: Trace, base: Policy, asked: Sequence[Policy], tried: Sequence[Policy], trigger: Trigger | None
) -> Values:
    """The values of each setting, by how one writes them; the threshold last."""
    total = int(trace.disk_total[-1])
    found: Values = {}
    for key, offered in _OFFERED.items():
        own = _known(key, [base, *asked])
        more = _known(key, [policy_from({key: text}, "page") for text in offered])
        found[key] = more | own if key != "local_images" or trace.local.any() else _known(key, [base])
    found[ALLOWLIST] = {"on": base.allowlist, "off": ()} if base.allowlist else {"none": ()}
    found[TRIGGER] = dict(_TRIGGERS) if trigger is None else {str(trigger): trigger}
    own = _known(THRESHOLD, [base, *asked])
    more = {text: value for text, value in _known(THRESHOLD, tried).items() if value.unit in {"%", AUTO}}
    count = math.prod(map(len, found.values()))
    levels = own | more if count * len(own | more) <= _MOST else own
    found[THRESHOLD] = dict(sorted(levels.items(), key=lambda item: (item[1].unit != AUTO, item[1].of(total))))
    return found


def _known(key: str, policies: Sequence[Policy]) -> dict[str, Any]:
    """The values that a key has in some policies, by how one writes them."""
    return {str(as_text(key, value_of(policy, key))): value_of(policy, key) for policy in policies}


def _candidate(base: Policy, values: Mapping[str, Any]) -> Candidate:
    keys = {key: value for key, value in values.items() if key != TRIGGER}
    policy = replace(base, **keys)
    timer = values[TRIGGER] is Trigger.TICK
    return Candidate(f"{policy}{TIMER_ONLY if timer else ''}", policy, values[TRIGGER])


def _possible(trace: Trace, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    try:
        return possible(trace, candidates)
    except UsageError:
        return ()
