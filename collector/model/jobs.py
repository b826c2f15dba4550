"""Which job a container belongs to: by the labels that CI systems give it. Pure, standard library only.

A job is known by what its CI system writes on the container, never by the container's image. Where
the labels name no job (Jenkins labels its agents, Compose its projects), what they do name is kept
and `job_id` stays empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

from collector.model.events import Event
from collector.model.untrusted import split_url

GITLAB = "com.gitlab.gitlab-runner."
_BUILDKITE = "com.buildkite."
_COMPOSE = "com.docker.compose."
_KUBERNETES = "io.kubernetes."
# Whoever starts a Compose project is not known: it need not be a CI job.
COMPOSE = "compose"
# The runner names containers so and labels them with six digits of the hash of its own settings.
_GITHUB_NAME = re.compile(r"(?P<run>[0-9a-f]{32})_.+_[0-9a-f]{5,6}")
_GITHUB_LABEL = re.compile(r"[0-9a-f]{6}")
_KUBERNETES_NAME = re.compile(r"k8s_(?P<role>[^_]+)_(?P<pod>[^_]+)_(?P<namespace>[^_]+)_(?P<uid>[^_]+)_\d+")
# What Kubernetes calls a pod's own container.
_SANDBOX = {"POD": "sandbox"}

# Labels of those who start, restart and remove their containers themselves, without Docker's restart policy.
_ORCHESTRATORS = {
    "com.docker.swarm.task.id": "Docker swarm",
    "com.docker.swarm.service.id": "Docker swarm",
    "com.hashicorp.nomad.alloc_id": "Nomad",
    "com.amazonaws.ecs.task-arn": "Amazon ECS",
    "com.amazonaws.ecs.cluster": "Amazon ECS",
    "io.kubernetes.pod.uid": "Kubernetes",
    "io.kubernetes.pod.name": "Kubernetes",
    "io.kubernetes.cri-o.ContainerID": "Kubernetes",
    "io.balena.supervised": "balena",
    "net.azure-devices.edge.owner": "Azure IoT Edge",
    "PODMAN_SYSTEMD_UNIT": "systemd",
}

# What names of a runner's containers and cache volumes begin with: one of its slots, where one job runs at a time.
SLOT = re.compile(r"runner-.+-project-[0-9]+-concurrent-[0-9]+")

# What serves a job and is not of its choice.
HELPER_ROLES = frozenset({"predefined", "helper", "cache", "cache-init", "wait", "sandbox"})


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a CI system: the parts that are known, as the CI system writes them.

    Attributes:
        ci: ``gitlab``, ``github``, ``buildkite``, ``jenkins``, ``compose`` or ``kubernetes``.
        job_id: its ID; None where only its agent or project is known.
        project_id: ID of the project (of Buildkite the pipeline, of Kubernetes the namespace).
        project: path of the project.
        pipeline_id: the pipeline or build that it is part of.
        ref: branch or tag.
        sha: commit.
        url: its web page.
        runner: the runner or agent.
        system_id: the machine that the runner runs on, where one runner has several.
        name: what people call the job.
    """

    ci: str
    job_id: str | None = None
    project_id: str | None = None
    project: str | None = None
    pipeline_id: str | None = None
    ref: str | None = None
    sha: str | None = None
    url: str | None = None
    runner: str | None = None
    system_id: str | None = None
    name: str | None = None

    def is_same(self, other: Job) -> bool:
        """Whether both are the same job: neither their IDs nor their projects nor their servers differ."""
        if (self.ci, self.job_id) != (other.ci, other.job_id):
            return False
        if self.job_id is None:
            return (self.project_id, self.runner, self.name) == (other.project_id, other.runner, other.name)
        return not _differ(self.project_id, other.project_id) and not _differ(_server(self), _server(other))

    def merged(self, other: Job) -> Job:
        """This job with what only `other` knows of it."""
        if self is other or self == other:
            return self
        pairs = zip(self.values(), other.values(), strict=True)
        return Job(self.ci, *[mine if mine is not None else others for mine, others in pairs][1:])

    def values(self) -> tuple[str | None, ...]:
        """All fields, in the order of `JOB_FIELDS`."""
        return _values(self)

    def to_json(self) -> dict[str, str]:
        """The fields that are known, for an event's attribute ``job``."""
        return {key: value for key, value in zip(JOB_FIELDS, self.values(), strict=True) if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """The job that `to_json` wrote; what else is there is left out."""
        return cls(**{key: str(data[key]) for key in JOB_FIELDS if data.get(key) is not None})


JOB_FIELDS = tuple(field.name for field in fields(Job))
_values = attrgetter(*JOB_FIELDS)


@dataclass(frozen=True, slots=True)
class System:
    """What the labels of a CI system's containers say.

    Attributes:
        ci: the system.
        needs: the fields without which a container is not one of its jobs'.
        fields: each field of `Job` with the labels that say it, the most specific first.
        role: the label that says the container's role; None: `usual_role` says it.
        usual_role: the role where no label says it.
    """

    ci: str
    needs: tuple[str, ...]
    fields: Mapping[str, tuple[str, ...]]
    role: str | None
    usual_role: str | None = None

    def attribution(self, labels: Mapping[str, str]) -> tuple[Job, str | None] | None:
        """The job and the role of a container; None: it is not one of this system's."""
        for field in self.needs:
            if _first(labels, self.fields[field]) is None:
                return None
        found = {field: _first(labels, names) for field, names in self.fields.items()}
        project = found.pop("project", None) or project_of(found.get("url"))
        role = labels.get(self.role, self.usual_role) if self.role else self.usual_role
        is_pod = self.role is not None and self.role.startswith(_KUBERNETES)
        return Job(self.ci, project=project, **found), _SANDBOX.get(role or "", role) if is_pod else role


_POD = {"name": (f"{_KUBERNETES}pod.name",)}
SYSTEMS = (
    System(  # GitLab Runner since 0.6; until 8 what is a job now was called a build
        "gitlab",
        ("job_id",),
        {
            "job_id": (f"{GITLAB}job.id", f"{GITLAB}build.id"),
            "project_id": (f"{GITLAB}project.id",),
            "pipeline_id": (f"{GITLAB}pipeline.id",),
            "ref": (f"{GITLAB}job.ref", f"{GITLAB}build.ref_name"),
            "sha": (f"{GITLAB}job.sha", f"{GITLAB}build.sha"),
            "url": (f"{GITLAB}job.url",),
            "runner": (f"{GITLAB}runner.id",),
            "system_id": (f"{GITLAB}runner.system_id",),
        },
        f"{GITLAB}type",
    ),
    System(
        "buildkite",
        ("job_id",),
        {
            "job_id": (f"{_BUILDKITE}job_id",),
            "project_id": (f"{_BUILDKITE}pipeline_slug",),
            "project": (f"{_BUILDKITE}pipeline_name", f"{_BUILDKITE}pipeline_slug"),
            "pipeline_id": (f"{_BUILDKITE}build_number",),
            "runner": (f"{_BUILDKITE}agent_name", f"{_BUILDKITE}agent_id"),
            "name": (f"{_BUILDKITE}step_key",),
        },
        f"{_COMPOSE}service",
        "build",
    ),
    # The plugin labels agents, not jobs.
    System("jenkins", ("runner",), {"runner": ("com.nirima.jenkins.plugins.docker.JenkinsId",)}, None, "agent"),
    System(  # a pod that GitLab Runner made
        "gitlab",
        ("name", "job_id"),
        {
            **{
                field: (f"{label}.runner.gitlab.com/{part}", f"annotation.{label}.runner.gitlab.com/{part}")
                for field, label, part in (
                    ("job_id", "job", "id"),
                    ("url", "job", "url"),
                    ("project_id", "project", "id"),
                )
            },
            **_POD,
        },
        f"{_KUBERNETES}container.name",
    ),
    System(
        "kubernetes",
        ("name",),
        {
            "job_id": (f"{_KUBERNETES}pod.uid",),
            "project_id": (f"{_KUBERNETES}pod.namespace",),
            "project": (f"{_KUBERNETES}pod.namespace",),
            **_POD,
        },
        f"{_KUBERNETES}container.name",
    ),
    System(
        COMPOSE,
        ("project",),
        {"project_id": (f"{_COMPOSE}project",), "project": (f"{_COMPOSE}project",)},
        f"{_COMPOSE}service",
    ),
)
ROLE_LABELS = tuple(dict.fromkeys(system.role for system in SYSTEMS if system.role))
# Every label that a job or an orchestrator is recognised by: where there are too many, these are kept.
JOB_LABELS = tuple(
    dict.fromkeys(
        (
            *(label for system in SYSTEMS for labels in system.fields.values() for label in labels),
            *ROLE_LABELS,
            *_ORCHESTRATORS,
        )
    )
)


def attribution(event: Event) -> tuple[Job, str | None] | None:
    """The job that an event speaks of, and the role in it of the event's image or container.

    A job source names the job itself (attributes ``job`` and ``role``); a container has its labels.
    """
    named = event.attributes.get("job")
    if isinstance(named, Mapping):
        role = event.attributes.get("role")
        return Job.from_json(named), None if role is None else str(role)
    labels = event.attributes.get("labels")
    if not isinstance(labels, Mapping):
        return None
    name = event.attributes.get("name")
    found = job_of(labels, name if isinstance(name, str) else "")
    if found is None or not isinstance(named, str) or found[0].name is not None:
        return found
    return replace(found[0], name=named), found[1]


def job_of(labels: Mapping[str, str], name: str = "") -> tuple[Job, str | None] | None:
    """The job and the role in it of a container; None if nothing shows that it belongs to one.

    Args:
        labels: the container's labels.
        name: its name; only looked at where a CI system has no labels of its own.
    """
    for system in SYSTEMS:
        if (found := system.attribution(labels)) is not None:
            return found
    return _github(labels, name) or _kubernetes_by_name(name)


def ci_job(labels: Mapping[str, str], name: str = "") -> str | None:
    """What to call the CI job that a container belongs to: its ID, else what is known of it; None: no job.

    Args:
        labels: the container's labels.
        name: its name; see `job_of`.
    """
    found = job_of(labels, name)
    if found is None or found[0].ci == COMPOSE:
        return None
    job = found[0]
    return job.job_id or job.name or job.runner or job.ci


def _kubernetes_by_name(name: str) -> tuple[Job, str | None] | None:
    """Dockershim wrote all into the name."""
    match = _KUBERNETES_NAME.fullmatch(name)
    if match is None:
        return None
    job = Job("kubernetes", match["uid"], match["namespace"], match["namespace"], name=match["pod"])
    return job, _SANDBOX.get(match["role"], match["role"])


def _github(labels: Mapping[str, str], name: str) -> tuple[Job, str | None] | None:
    """GitHub's runner labels itself (six digits without a value) and names no job."""
    if _GITHUB_NAME.fullmatch(name) is None:
        return None
    runner = next((key for key, value in labels.items() if not value and _GITHUB_LABEL.fullmatch(key)), None)
    return (Job("github", runner=runner), "job") if runner else None


def orchestrator_of(labels: Mapping[str, str], name: str = "") -> str | None:
    """Who starts and removes a container by itself, in words; None: nobody is known to.

    Args:
        labels: the container's labels.
        name: its name, into which dockershim wrote all that it knows.
    """
    found = next((words for label, words in _ORCHESTRATORS.items() if labels.get(label)), None)
    return found or ("Kubernetes" if _KUBERNETES_NAME.fullmatch(name) else None)


def slot_of(name: str) -> str | None:
    """The runner's slot that a cache volume or a job's container belongs to, from its name."""
    match = SLOT.match(name)
    return match[0] if match else None


def project_of(url: str | None) -> str | None:
    """The path of a GitLab project from a job's page or a repository's address."""
    if not url:
        return None
    parts = split_url(url)
    path = parts.path.strip("/") if parts else ""
    return re.split(r"(?:/-)?/jobs/\d+$|\.git$", path)[0] or None


def _first(labels: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The first that is there and not empty."""
    for name in names:
        if found := labels.get(name):
            return found
    return None


def _server(job: Job) -> str | None:
    parts = split_url(job.url)
    return (parts.netloc or None) if parts else None


def _differ(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other
