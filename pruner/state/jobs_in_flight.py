"""Which images a job in flight may need before its build container exists. Pure.

Between the preparation of a job and the creation of its build container lies the time that fetching
its sources takes. The image has no container then, and under the pull policies `if-not-present` and
`never` no pull shows it either; removed at that moment, it is pulled again, or the job fails.

What evidence names (the runner's log, an earlier container of the job) stays. What is only guessed from
the past of the job's project goes last instead: a wrong guess costs one pull, a full disk fails every
job. Where no pull can bring an image back, a guess is as good as evidence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from collector.model.jobs import job_of, slot_of
from collector.model.observation import ListedContainer
from collector.model.references import all_aliases
from collector.model.units import format_duration, short_id

# A container of a job that has not come to its build by now is a left-over.
PREPARATION_S = 6 * 3600.0
# A job that a runner's log or a CI server says has begun, and of which no container is seen by now, runs elsewhere.
UNSEEN_S = 3600.0
# The runner creates the next container of a job within seconds of the last one's end, unless it pulls: and
# what it pulls then is not here yet.
SETTLE_S = 300.0
# A listing says in whole seconds when a container was created.
_SECOND_S = 1.0
# The pull ends some seconds before the first container is created.
MARGIN_S = 60.0
ALWAYS, NEVER = "always", "never"
_BUILD = "build"
# Until 12.9 these outlived their jobs.
_LEFT_OVER = "cache"


class Holdable(Protocol):
    """An image that the engine holds."""

    @property
    def image_id(self) -> str:
        """The engine's ID."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that it was ever seen with."""

    @property
    def pulled(self) -> float:
        """When it was last pulled, UTC seconds."""

    @property
    def local(self) -> bool:
        """Whether, as far as is known, it exists only on this host."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A job whose build container does not exist yet.

    Attributes:
        job_id: its ID.
        project_id: the project's ID.
        began: its first sign, UTC seconds.
        container: name of the container that shows it; None: only a runner's log or a CI server does.
        runner: the runner's short token.
        ref: branch or tag.
        name: the job's name in its pipeline.
    """

    job_id: str
    project_id: str | None
    began: float
    container: str | None = None
    runner: str | None = None
    ref: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Why an image is held for a job in flight.

    Attributes:
        job: the job's ID.
        began: the job's first sign, UTC seconds.
        container: name of the container that shows the job; None: only a runner's log or a CI server does.
        why: what ties the image to the job, in words.
        firm: whether the image stays whatever happens; else it goes after all others.
        likely: whether the job, or the past of its project, speaks for it; else only the time of a pull does.
    """

    job: str
    began: float
    container: str | None
    why: str
    firm: bool
    likely: bool = True

    @property
    def rank(self) -> int:
        """The higher, the later the image goes."""
        return 3 if self.firm else 2 if self.likely else 1

    def summary(self, now: float) -> str:
        """All of it in words; `now` in UTC seconds."""
        shown = f"container {self.container}" if self.container else "the runner's log"
        return f"job {self.job}, in flight for {format_duration(max(0.0, now - self.began))} ({shown}): {self.why}"

    def to_json(self) -> dict[str, Any]:
        """As a recorded plan keeps it; the time in UTC seconds."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Hold:
        """The hold that `to_json` wrote."""
        return cls(
            str(data.get("job")),
            float(data.get("began") or 0.0),
            data.get("container"),
            str(data.get("why")),
            bool(data.get("firm")),
            bool(data.get("likely", True)),
        )


@dataclass(frozen=True, slots=True)
class PastUse:
    """An image that jobs of a project have used lately; `ref` and `name` are the job's."""

    image: str
    ref: str | None
    name: str | None
    service: bool = False


@dataclass(frozen=True, slots=True)
class JobMemory:
    """What the log knows of jobs.

    Attributes:
        images: IDs of the images that a recent job names or has used, by job ID.
        names: what a recent job calls the images that it names, by job ID.
        settled: recent jobs of which it is known which image they build in.
        uses: what the jobs of a project have used lately, by project ID.
        policies: pull policies as the past shows them, by project ID and runner.
        configured: pull policies as the runner's configuration has them, by runner.
        begun: jobs that are said to have begun and not ended, of which no container exists now or built.
        open: IDs of all recent jobs that are said to have begun and not ended.
        ended: IDs of recent jobs that are said to have ended.
        slots: when a job was last seen in each of the runners' slots (UTC seconds), and which.
        look_up: adds what the log knows of jobs in flight and of their projects' past; None: all of it is here.
    """

    images: Mapping[str, frozenset[str]] = field(default_factory=dict)
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)
    settled: frozenset[str] = frozenset()
    uses: Mapping[str, tuple[PastUse, ...]] = field(default_factory=dict)
    policies: Mapping[tuple[str, str | None], str] = field(default_factory=dict)
    configured: Mapping[str, str] = field(default_factory=dict)
    begun: tuple[Flight, ...] = ()
    open: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()
    slots: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    look_up: Callable[[Sequence[Flight]], JobMemory] | None = field(default=None, compare=False)

    def about(self, flying: Sequence[Flight]) -> JobMemory:
        """This with all that is known of these jobs. Raises LogError."""
        return self.look_up(flying) if flying and self.look_up is not None else self

    def policy(self, flight: Flight) -> str | None:
        """The pull policy of a job; None if nothing shows it."""
        known = self.configured.get(flight.runner or "")
        return known or self.policies.get((flight.project_id or "", flight.runner))


@dataclass(slots=True)
class _Seen:
    """A job as its containers show it."""

    flight: Flight
    building: bool = False
    running: bool = False
    last: float = 0.0
    newest: float = 0.0
    slots: set[str] = field(default_factory=set)


def flights(
    containers: Iterable[ListedContainer], memory: JobMemory, now: float, stopped: Mapping[str, float] | None = None
) -> list[Flight]:
    """The jobs whose build container does not exist yet.

    A flight ends by evidence: its build container, a later job in its slot, its end or its runner's
    restart in the runner's log, or no running container for some minutes.

    Args:
        containers: all that the engine lists, in any state.
        memory: what the log knows.
        now: UTC seconds.
        stopped: when stopped containers did, UTC seconds, by ID; those that it leaves out count as just stopped.
    """
    seen: dict[str, _Seen] = {}
    latest = dict(memory.slots)
    for row in containers:
        found = job_of(row.labels)
        if found is None or found[0].ci != "gitlab" or found[0].job_id is None:
            continue
        job, role = found
        job_id, created = str(job.job_id), row.created_ns / 1e9
        flight = Flight(
            job_id, job.project_id, created, row.name or short_id(row.container), job.runner, job.ref, job.name
        )
        known = seen.setdefault(job_id, _Seen(flight))
        if created < known.flight.began:
            known.flight = flight
        known.newest = max(known.newest, created)
        if (slot := slot_of(row.name)) is not None:
            known.slots.add(slot)
            latest[slot] = max((created, job_id), latest.get(slot, (0.0, "")))
        known.building |= role == _BUILD
        known.running |= row.state == "running"
        if role != _LEFT_OVER:
            ended = created if stopped is None else stopped.get(row.container, now)
            known.last = max(known.last, ended)
    over = memory.ended | {
        job_id
        for job_id, one in seen.items()
        for slot in one.slots
        if latest[slot][1] != job_id and latest[slot][0] > one.newest + _SECOND_S
    }
    flying = [one.flight for one in seen.values() if one.flight.job_id not in over and _flies(one, memory, now)]
    begun = [flight for flight in memory.begun if flight.began > now - UNSEEN_S and flight.job_id not in over]
    return [*flying, *(flight for flight in begun if flight.job_id not in seen)]


def _flies(one: _Seen, memory: JobMemory, now: float) -> bool:
    if one.building or one.flight.began <= now - PREPARATION_S:
        return False
    # Who follows the runner's log knows that it is pulling still.
    return one.running or one.last > now - SETTLE_S or (one.last > 0 and one.flight.job_id in memory.open)


def held_for_jobs(
    containers: Iterable[ListedContainer],
    images: Iterable[Holdable],
    memory: JobMemory,
    now: float,
    stopped: Mapping[str, float] | None = None,
) -> dict[str, Hold]:
    """The images that jobs in flight may need, by ID, each with the firmest reason for it.

    If the runner's log or an earlier container shows the job's image, it is that one, in addition to the services
    of its project. Else it may be any that jobs of its project, of the same name or ref, have used lately, or
    that was pulled since it began. A job that pulls its image each time needs none of them.

    Args:
        containers: all that the engine lists, in any state.
        images: the images that the engine holds.
        memory: what the log knows.
        now: UTC seconds.
        stopped: see `flights`.

    Raises:
        LogError: what the log knows of these jobs cannot be read.
    """
    present, held = _Present(images), dict[str, Hold]()
    flying = flights(list(containers), memory, now, stopped)
    known = memory.about(flying)
    for flight in flying:
        for image, hold in _holds(flight, present, known):
            if image not in held or hold.rank > held[image].rank:
                held[image] = hold
    return held


class _Present:
    """The images that the engine holds, found by what is known of a job: there are many, and many jobs."""

    def __init__(self, images: Iterable[Holdable]) -> None:
        self.by_id = {image.image_id: image for image in images}
        self._by_pull = sorted(self.by_id.values(), key=_pulled)

    @cached_property
    def _by_alias(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for image in self.by_id.values():
            for alias in all_aliases(image.names):
                found[alias].append(image.image_id)
        return found

    def named(self, names: Iterable[str]) -> set[str]:
        """The IDs of the images that had one of these names, however it was spelled."""
        return {image for name in names for image in self._by_alias.get(name, ())}

    def pulled_since(self, time: float) -> list[str]:
        """The IDs of the images that were pulled since then, UTC seconds."""
        return [image.image_id for image in self._by_pull[bisect_left(self._by_pull, time, key=_pulled) :]]


def _pulled(image: Holdable) -> float:
    return image.pulled


def _holds(flight: Flight, present: _Present, memory: JobMemory) -> Iterable[tuple[str, Hold]]:
    used = memory.images.get(flight.job_id, frozenset()) & present.by_id.keys()

    def hold(why: str, *, firm: bool) -> Hold:
        return Hold(flight.job_id, flight.began, flight.container, why, firm)

    for image in used | present.named(memory.names.get(flight.job_id, ())):
        yield image, hold("the job names it", firm=True)
    policy = memory.policy(flight)
    if policy == ALWAYS:
        return

    def is_firm(image: str) -> bool:
        return policy == NEVER or (policy is None and present.by_id[image].local)

    settled = flight.job_id in memory.settled
    guessed, how = _guess(flight, memory, services_only=settled)
    for image in guessed & present.by_id.keys():
        yield image, hold(how, firm=is_firm(image))
    if not settled:
        for image in present.pulled_since(flight.began - MARGIN_S):
            if image not in guessed:
                yield image, replace(hold("pulled since the job began", firm=is_firm(image)), likely=False)


def _guess(flight: Flight, memory: JobMemory, *, services_only: bool) -> tuple[frozenset[str], str]:
    """What a job may need judging by its project's past, and how that is known.

    The runner's log names the image that a job builds in before its services.
    """
    past = memory.uses.get(flight.project_id or "", ())
    uses = [use for use in past if use.service or not services_only]
    same_name = frozenset(use.image for use in uses if flight.name is not None and use.name == flight.name)
    if same_name:
        return same_name, "jobs of this name used it lately"
    same_ref = frozenset(use.image for use in uses if flight.ref is not None and use.ref == flight.ref)
    if same_ref:
        return same_ref, "jobs of its project and ref used it lately"
    return frozenset(use.image for use in uses), "jobs of its project used it lately"
