"""What of a job is kept in the log: one table, by which every event is cut down before it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from collector.model.events import Event
from collector.model.jobs import JOB_FIELDS, ROLE_LABELS, SYSTEMS, Job, attribution, slot_of
from collector.model.traits import Reporter


class JobDetails(StrEnum):
    """How much of a job is kept."""

    ALL = "all"
    IDS = "ids"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that events say of a job.

    Attributes:
        name: what it is, for people.
        ids: whether `ids` keeps it.
        none: whether even `none` does.
        fields: the columns of the table `job` that hold it.
        others: labels of containers that say it, beyond those that say these fields; one that ends in ``*`` stands for
            all that begin so.
    """

    name: str
    ids: bool = False
    none: bool = False
    fields: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of containers that say it."""
        own = [name for system in SYSTEMS for field in self.fields for name in system.fields.get(field, ())]
        return tuple(dict.fromkeys((*own, *self.others)))


FACTS = (
    Fact("which image was used, when and for how long, by how many containers", ids=True, none=True),
    Fact(
        "the service of a Compose project, of Swarm, Nomad, ECS or balena",
        ids=True,
        none=True,
        others=(
            "com.docker.*",
            "com.hashicorp.nomad.*",
            "com.amazonaws.ecs.*",
            "io.balena.*",
            "net.azure-devices.*",
            "PODMAN_SYSTEMD_UNIT",
        ),
    ),
    Fact("the CI system", ids=True, fields=("ci",)),
    Fact("the job's ID, and the role of each container in it", ids=True, fields=("job_id",), others=ROLE_LABELS),
    Fact("the project's ID (of Kubernetes the namespace)", ids=True, fields=("project_id",)),
    Fact("the pipeline or build that the job is part of", ids=True, fields=("pipeline_id",)),
    Fact(
        "the runner or agent, its machine and its slot",
        ids=True,
        fields=("runner", "system_id"),
        others=("com.nirima.jenkins.*",),
    ),
    Fact("when the job began and ended, its outcome and its failed pulls", ids=True),
    Fact("the project's path", fields=("project",)),
    Fact("the branch or tag, and the commit", fields=("ref", "sha")),
    Fact("the address of the job's page", fields=("url",)),
    Fact("what people call the job", fields=("name",)),
    Fact("the names of containers, beyond a runner's slot, and all other labels of containers (users, teams)"),
)
# What a field is kept at least by.
_FIELDS = {field: fact for fact in FACTS for field in fact.fields}


def cut_down(events: Iterable[Event], details: JobDetails) -> Iterator[Event]:
    """The events with no more of their jobs than is to be kept; those that speak of nothing but a job go with it."""
    if details is JobDetails.ALL:
        yield from events
        return
    for event in events:
        if details is JobDetails.NONE and event.kind.traits.reporter is Reporter.JOBS and event.image is None:
            continue
        yield _cut_down(event, details)


def _cut_down(event: Event, details: JobDetails) -> Event:
    facts: dict[str, Any] = dict(event.attributes)
    if event.kind.traits.reporter is not Reporter.JOBS and "labels" not in facts and "name" not in facts:
        return event
    named = facts.pop("job", None)
    try:
        job = attribution(event) if isinstance(named, Mapping) else None
    except (ValueError, TypeError, AttributeError):
        job = None
    if details is JobDetails.NONE:
        facts.pop("role", None)
    elif job is not None:
        facts["job"] = kept_of(job[0], details).to_json()
    labels = facts.get("labels")
    if "labels" in facts:
        found = labels.items() if isinstance(labels, Mapping) else ()
        facts["labels"] = {label: value for label, value in found if keeps_label(label, details)}
    if "name" in facts:
        name = facts.pop("name")
        slot = slot_of(name) if isinstance(name, str) and details is JobDetails.IDS else None
        facts |= {} if slot is None else {"name": slot}
    return replace(event, attributes=facts)


def kept_of(job: Job, details: JobDetails) -> Job:
    """The job with what is kept of it."""
    kept = {field: getattr(job, field) for field in JOB_FIELDS if _keeps(_FIELDS[field], details)}
    return Job(**{"ci": "", **kept})


@lru_cache(maxsize=4096)
def keeps_label(label: str, details: JobDetails) -> bool:
    """Whether a label of a container is kept: one that says several facts is, if one of them is."""
    facts = [fact for fact in FACTS if any(fnmatchcase(label, known) for known in fact.labels)]
    return details is JobDetails.ALL or any(_keeps(fact, details) for fact in facts)


def _keeps(fact: Fact, details: JobDetails) -> bool:
    return details is JobDetails.ALL or (fact.none if details is JobDetails.NONE else fact.ids)
