"""Which pull policy the past shows of a project's jobs. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pruner.state.jobs_in_flight import ALWAYS, MARGIN_S

_ENOUGH_JOBS = 3


@dataclass(frozen=True, slots=True)
class Build:
    """A build container of the past. Times are UTC seconds.

    Attributes:
        job_id: its job.
        project_id: the job's project.
        runner: the job's runner.
        image: ID of its image.
        first: the job's first sign.
        created: when the container was created.
    """

    job_id: str
    project_id: str
    runner: str | None
    image: str
    first: float
    created: float


def pull_policies(
    builds: Iterable[Build], arrivals: Mapping[str, list[tuple[float, str]]]
) -> dict[tuple[str, str | None], str]:
    """The pull policy that jobs of a project on a runner have shown: `always`, or it is left out.

    Only a job's own pull that found its image present shows it: under `if-not-present` there is none. A
    pull that another job with the same image may have made shows nothing, and neither does one
    that brought the image.

    Args:
        builds: the latest build containers of each project and runner.
        arrivals: (time, kind) of all pulls, removals and other events of those images, in order.
    """
    by_image: dict[str, list[Build]] = defaultdict(list)
    builds = list(builds)
    times = {image: [time for time, _ in of_image] for image, of_image in arrivals.items()}
    for build in builds:
        by_image[build.image].append(build)
    shown: dict[tuple[str, str | None], list[bool]] = defaultdict(list)
    for build in builds:
        begin, end = (bisect_left(times.get(build.image, ()), time) for time in (build.first - MARGIN_S, build.created))
        events = arrivals.get(build.image, [])
        # Of the past only the latest says whether it was there.
        verdict = _pulls_always(build, by_image[build.image], events[max(min(begin, end) - 1, 0) : end])
        if verdict is not None:
            shown[build.project_id, build.runner].append(verdict)
    return {who: ALWAYS for who, verdicts in shown.items() if len(verdicts) >= _ENOUGH_JOBS and all(verdicts)}


def _pulls_always(build: Build, others: Iterable[Build], events: Iterable[tuple[float, str]]) -> bool | None:
    """Whether a job pulled an image that was there; None if that cannot be known."""
    present = False
    pulls: list[float] = []
    for time, kind in events:
        if time < build.first - MARGIN_S:
            present = kind != "image_deleted"
        elif kind == "image_deleted":
            return None
        elif kind == "image_pulled":
            pulls.append(time)
    if not present:
        return None
    own = [
        time
        for time in pulls
        if not any(one.job_id != build.job_id and one.first - MARGIN_S <= time <= one.created for one in others)
    ]
    return True if own else None if pulls else False
