"""What the values of options mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from collector.model.choices import did_you_mean
from collector.model.errors import UsageError
from collector.model.units import size_option
from pruner.policy.file import COMMAND_LINE, load_policy, policy_from
from pruner.policy.policy import Policy, format_entries

if TYPE_CHECKING:
    from analyzer.report.terminal import Output
    from analyzer.search.grid import Candidate
    from analyzer.simulation.cleaner import Trigger

_MOST_PRICE = 1e9
Word = TypeVar("Word", bound=StrEnum)


def policies(
    files: Sequence[Path] | None, allowlist: Sequence[str] | None, **axes: Sequence[Any] | None
) -> list[Policy]:
    """One policy for each file and each combination of the values given for the axes.

    Raises:
        UsageError: a file or a value is impossible.
    """
    fixed = {"allowlist": list(allowlist)} if allowlist else {}
    given = {name: values for name, values in axes.items() if values}
    for name, values in given.items():
        if grids := [value for value in values if set(value) & {":", ","}]:
            raise UsageError(
                f"--{name.replace('_', '-')}: '{grids[0]}' is a range or a list, which `analyzer sweep` takes: "
                "here repeat the option"
            )
    return [
        policy_from({**fixed, **dict(zip(given, values, strict=True))}, COMMAND_LINE, base)
        for base in _bases(files)
        for values in itertools.product(*given.values())
    ]


def search(
    files: Sequence[Path] | None,
    allowlist: Sequence[str] | None,
    axes: dict[str, list[str] | None],
    when: Trigger | None = None,
) -> list[Candidate]:
    """The policies that `analyzer recommend` would try, for each file if there are any.

    Raises:
        UsageError: a file or a value is impossible.
    """
    from analyzer.search.grid import AllowlistSet, searched

    sets = [AllowlistSet(format_entries(len(allowlist)), tuple(allowlist))] if allowlist else []
    found = [candidate for base in _bases(files) for candidate in searched(axes, sets, base, when)]
    return list({candidate.name: candidate for candidate in found}.values())


def _bases(files: Sequence[Path] | None) -> Sequence[Policy | None]:
    return [load_policy(path) for path in files or ()] or [None]


def baselines(names: Sequence[str] | None) -> tuple[str, ...]:
    """Baselines, by name. Raises UsageError."""
    from analyzer.baselines import BASELINES, DEFAULT_BASELINES, baseline

    chosen: list[str] = []
    for name in names or DEFAULT_BASELINES:
        if name == "all":
            chosen.extend(BASELINES)
        elif name != "none":
            baseline(name)  # an unknown one is refused before the log is read
            chosen.append(name)
    return tuple(chosen)


def output_format(text: str) -> Output:
    """How results are printed. Raises UsageError."""
    from analyzer.report.terminal import Output

    return _one_of("--format", text, Output)


def trigger(text: str | None) -> Trigger:
    """What starts a prune; unless stated, events, too. Raises UsageError."""
    from analyzer.simulation.cleaner import Trigger

    return _one_of("--trigger", text or Trigger.EVENT, Trigger)


def _one_of(option: str, text: str, known: type[Word]) -> Word:
    try:
        return known(text)
    except ValueError:
        raise UsageError(f"{option}: '{text}' is not one of {', '.join(known)}{did_you_mean(text, known)}") from None


def rate(text: str | None) -> float | None:
    """Bytes per second of ``--pull-rate``; None: as on the history's host. Raises UsageError."""
    if text is None:
        return None
    amount = size_option("--pull-rate", text)
    if not amount:
        raise UsageError("--pull-rate must be at least one byte per second")
    return float(amount)


def price(text: str | None) -> float:
    """What 1 GiB costs by ``--price-per-gib``; 0: that was not given. Raises UsageError."""
    if text is None:
        return 0.0
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0.0 <= amount <= _MOST_PRICE:  # NaN is not either
        raise UsageError(
            f"--price-per-gib: '{text}' is not a number from 0 to {_MOST_PRICE:,.0f}; "
            "write it with a point and without other signs, such as 1234.05"
        )
    return amount


def split(text: str) -> float:
    """The share of ``--split``, over 0 and up to 1. Raises UsageError."""
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise UsageError(f"--split: '{text}' is not a share over 0 and up to 1, such as 0.7")
    return share
