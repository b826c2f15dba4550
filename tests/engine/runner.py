"""Jobs as GitLab Runner's docker executor runs them, over the engine's API.

The helper's container and the build's are created by image ID (as until version 19.1), with the
runner's labels, one after the other, and both are removed by force at the end of the job.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import docker
import docker.errors

from tests.engine.engines import Engine

PREFIX = "com.gitlab.gitlab-runner."


class PullError(Exception):
    """The engine could not pull; it says so inside the progress stream."""


class JobFailedError(Exception):
    """The job's image was not there, or its container could not be made."""


@dataclass
class FakeRunner:
    """One runner on one engine.

    Args:
        engine: the engine.
        helper: reference of the helper image.
        by_digest: create containers by ``repository@digest``, as version 19.2 and later do.
    """

    engine: Engine
    helper: str
    by_digest: bool = False
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1001))

    def run_job(
        self,
        reference: str,
        job_id: int | None = None,
        project_id: int = 7,
        pull_policy: str = "if-not-present",
        command: tuple[str, ...] = ("/bin/true",),
        between: Any = None,
    ) -> int:
        """Run one job to its end; its number.

        Args:
            reference: the job's image.
            job_id: its number, else the next.
            project_id: the project's number.
            pull_policy: ``always``, ``if-not-present`` or ``never``.
            command: what the build container runs.
            between: called after the image is there and before the build container is created.

        Raises:
            PullError, JobFailedError: as they say.
        """
        number = next(self._numbers) if job_id is None else job_id
        client = self.engine.client()
        try:
            helper = self._image(client, self.helper, "if-not-present")
            image = self._image(client, reference, pull_policy)
            predefined = self._container(client, helper, "predefined", number, project_id, ("/bin/true",))
            try:
                if between is not None:
                    between()
                build = self._container(client, image, "build", number, project_id, command)
                build.remove(force=True, v=True)
            finally:
                predefined.remove(force=True, v=True)
        except docker.errors.ImageNotFound as error:
            raise JobFailedError(str(error)) from error
        finally:
            client.close()
        return number

    def _image(self, client: docker.DockerClient, reference: str, policy: str) -> Any:
        if policy != "always":
            try:
                return client.images.get(reference)
            except docker.errors.ImageNotFound:
                if policy == "never":
                    raise
        pull(client, reference)
        return client.images.get(reference)

    def _container(
        self,
        client: docker.DockerClient,
        image: Any,
        kind: str,
        job: int,
        project: int,
        command: tuple[str, ...],
    ) -> Any:
        asked = image.attrs["RepoDigests"][0] if self.by_digest and image.attrs["RepoDigests"] else image.id
        container = client.containers.create(
            asked,
            list(command),
            name=f"runner-abcdefgh-project-{project}-concurrent-0-{job:016x}-{kind}",
            network_mode="none",
            labels={
                f"{PREFIX}{key}": value
                for key, value in {
                    "job.id": str(job),
                    "job.url": f"https://gitlab.example.org/group/project/-/jobs/{job}",
                    "job.ref": "main",
                    "job.sha": "a" * 40,
                    "pipeline.id": str(job // 10),
                    "project.id": str(project),
                    "runner.id": "abcdefgh",
                    "type": kind,
                    "managed": "true",
                }.items()
            },
        )
        container.start()
        container.wait()
        return container


def pull(client: docker.DockerClient, reference: str) -> None:
    """Pull, and raise what the progress stream says went wrong."""
    for step in client.api.pull(reference, stream=True, decode=True):
        if "error" in step:
            raise PullError(step["error"])
