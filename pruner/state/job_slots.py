"""How many job slots of a GitLab Runner are free, for amounts per job."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path

from collector.model import environment
from collector.model.errors import UsageError
from collector.model.jobs import job_of
from collector.model.observation import ListedContainer
from collector.model.paths import read_bounded
from collector.model.untrusted import cut
from pruner.policy.policy import MOST_SLOTS, Policy
from pruner.state.inventory import (
    ENDED,
)


def free_slots(policy: Policy, listed: Iterable[ListedContainer]) -> int | None:
    """Job slots that are free now; None if no amount is given per job.

    Args:
        policy: the number of slots, or where the runner's configuration with it lies.
        listed: all containers: those of jobs that run take a slot each.

    Raises:
        UsageError: the number of slots is not known.
    """
    if not policy.per_job:
        return None
    found = [job_of(row.labels, row.name) for row in listed if row.state not in ENDED]
    running = {one[0].job_id for one in found if one is not None and one[0].ci == "gitlab"}
    slots = policy.job_slots if policy.job_slots is not None else read_slots(Path(policy.runner_config))
    return max(0, slots - len(running))


def _slots_from_unit(path: Path) -> int | None:
    """The number of job slots that root read in a file that we may not read; None: it is not known."""
    number, _, where = os.environ.get(environment.JOB_SLOTS, "").partition(":")
    return int(number) if where == str(path) and number.isdecimal() and int(number) > 0 else None


def read_slots(path: Path) -> int:
    """How many jobs a GitLab Runner runs at once, from its config.toml, or from our unit's environment.

    Raises:
        UsageError: it cannot be read.
    """
    missing = f"an amount per job needs the number of job slots: set job_slots, or make runner_config = {path} readable"
    try:
        # The runner's own default is one.
        slots = tomllib.loads(read_bounded(path)).get("concurrent", 1)
    except OSError as error:
        if isinstance(error, PermissionError) and (known := _slots_from_unit(path)) is not None:
            return known
        raise UsageError(f"{missing} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{missing} (it is not valid TOML: {error})") from None
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MOST_SLOTS:
        raise UsageError(f"{missing} (concurrent = {cut(str(slots), 40)} is not a number of jobs)")
    return slots
