"""What of a job is kept in the log: one table, by which every event is cut down before it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from collector.model.events import Event
from collector.model.jobs import GITLAB, JOB_FIELDS, Job, attribution, slot_of
from collector.model.traits import Source


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
        labels: the labels of containers that say it; one that ends in ``*`` stands for all that begin so.
    """

    name: str
    ids: bool = False
    none: bool = False
    fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


_ANNOTATED = tuple(f"{prefix}{key}.runner.gitlab.com/" for key in ("job", "project") for prefix in ("", "annotation."))
FACTS = (
    Fact("which image was used, when and for how long, by how many containers", ids=True, none=True),
    Fact(
        "the service of a Compose project, of Swarm, Nomad, ECS or balena",
        ids=True,
        none=True,
        labels=(
            "com.docker.*",
            "com.hashicorp.nomad.*",
            "com.amazonaws.ecs.*",
            "io.balena.*",
            "net.azure-devices.*",
            "PODMAN_SYSTEMD_UNIT",
        ),
    ),
    Fact("the CI system", ids=True, fields=("ci",)),
    Fact(
        "the job's ID, and the role of each container in it",
        ids=True,
        fields=("job_id",),
        labels=(
            f"{GITLAB}job.id",
            f"{GITLAB}build.id",
            f"{GITLAB}type",
            "com.buildkite.job_id",
            "io.kubernetes.pod.uid",
            *(f"{prefix}id" for prefix in _ANNOTATED[:2]),
        ),
    ),
    Fact(
        "the project's ID (of Kubernetes the namespace)",
        ids=True,
        fields=("project_id",),
        labels=(
            f"{GITLAB}project.id",
            "com.buildkite.pipeline_slug",
            "io.kubernetes.pod.namespace",
            *(f"{prefix}id" for prefix in _ANNOTATED[2:]),
        ),
    ),
    Fact(
        "the pipeline or build that the job is part of",
        ids=True,
        fields=("pipeline_id",),
        labels=(f"{GITLAB}pipeline.id", "com.buildkite.build_number"),
    ),
    Fact(
        "the runner or agent, its machine and its slot",
        ids=True,
        fields=("runner", "system_id"),
        labels=(
            *(f"{GITLAB}runner.id", f"{GITLAB}runner.system_id", "com.buildkite.agent_name", "com.buildkite.agent_id"),
            *("com.nirima.jenkins.*", "io.kubernetes.container.name"),
        ),
    ),
    Fact("when the job began and ended, its outcome and its failed pulls", ids=True),
    Fact("the project's path", fields=("project",)),
    Fact("the branch or tag, and the commit", fields=("ref", "sha")),
    Fact("the address of the job's page", fields=("url",)),
    Fact("what people call the job", fields=("name",)),
    Fact("the names of containers, beyond a runner's slot, and all other labels of containers (users, teams)"),
)
# What a field or a label is kept at least by.
_FIELDS = {field: fact for fact in FACTS for field in fact.fields}
_LABELS = {label: fact for fact in FACTS for label in fact.labels if not label.endswith("*")}
_PREFIXES = tuple((label[:-1], fact) for fact in FACTS for label in fact.labels if label.endswith("*"))


def cut_down(events: Iterable[Event], details: JobDetails) -> Iterator[Event]:
    """The events with no more of their jobs than is to be kept; those that speak of nothing but a job go with it."""
    if details is JobDetails.ALL:
        yield from events
        return
    for event in events:
        if details is JobDetails.NONE and event.kind.traits.source is Source.JOBS and event.image is None:
            continue
        yield _cut_down(event, details)


def _cut_down(event: Event, details: JobDetails) -> Event:
    facts: dict[str, Any] = dict(event.attributes)
    if event.kind.traits.source is not Source.JOBS and "labels" not in facts and "name" not in facts:
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


def keeps_label(label: str, details: JobDetails) -> bool:
    """Whether a label of a container is kept."""
    fact = _LABELS.get(label) or next((fact for prefix, fact in _PREFIXES if label.startswith(prefix)), None)
    return details is JobDetails.ALL or (fact is not None and _keeps(fact, details))


def _keeps(fact: Fact, details: JobDetails) -> bool:
    return details is JobDetails.ALL or (fact.none if details is JobDetails.NONE else fact.ids)
