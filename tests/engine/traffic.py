"""Jobs of several threads on one engine, for tests that prune meanwhile."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import docker
import docker.errors
import pytest
from docker.models.containers import Container

from pruner.planning.plan import Plan
from pruner.removal.remover import Remover
from pruner.state.event_watch import EventWatch
from pruner.state.inventory import Image
from tests.engine.engines import Engine
from tests.engine.registry import PushedImage
from tests.engine.runner import PREFIX, PullError, pull

MIB = 2**20
JOBS = 240
# It goes on until enough has gone, within reason.
REMOVALS = 20
LONGEST_S = 400.0
THREADS = 6
# Each image is used every ten seconds however quick the machine is: were they all used every few seconds, hardly
# one would be old enough to go (MIN_AGE_S) and still unused when its turn comes.
IMAGES = 40
PACE_S = 1.5
MIN_AGE_S = 2.0


@dataclass
class Job:
    """A job, what it needs by name and ID, and when the engine had pulled that for it. Times are UTC seconds.

    What a job finds there it only looks up, which no engine reports: then `pulled` is infinite.
    """

    number: int
    reference: str
    image: str
    began: float
    pulled: float = math.inf


@dataclass
class Removals:
    """From the first question about an image to the end of its removal, UTC seconds, as the remover goes.

    By the image's ID: while it is being pulled it has no name yet.
    """

    asked: dict[str, float] = field(default_factory=dict)
    windows: list[tuple[str, float, float]] = field(default_factory=list)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Take down the times; all else is the remover's own."""
        ask, remove = Remover._image_obstacle, Remover._remove_image

        def asked(ours: Remover, image: Image, made: Plan, watch: EventWatch) -> str | None:
            self.asked[image.image_id] = time.time()
            return ask(ours, image, made, watch)

        def removed(ours: Remover, image: Image, made: Plan, watch: EventWatch) -> str | None:
            try:
                return remove(ours, image, made, watch)
            finally:
                self.windows.append((image.image_id, self.asked[image.image_id], time.time()))

        patch.setattr(Remover, "_image_obstacle", asked)
        patch.setattr(Remover, "_remove_image", removed)

    def met(self, job: Job, failed: float) -> bool:
        """Whether the image went while the job was on its way, and was asked about before it had been pulled."""
        return any(
            image == job.image and asked <= min(job.pulled, failed) and gone >= job.began
            for image, asked, gone in self.windows
        )


@dataclass
class Traffic:
    """Jobs as a runner runs them, many at once; each waits between getting its image and its container.

    GitLab Runner asks for the image again right before it creates the build container, and pulls it
    if it has vanished; with ``always`` it has pulled it at the job's beginning.
    """

    engine: Engine
    images: list[PushedImage]
    helper: str
    removed: list[str] = field(default_factory=list)
    begun: int = 0
    until: float = field(default_factory=lambda: time.monotonic() + LONGEST_S)
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lost: list[tuple[Job, float, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, seed: int) -> None:
        """Run jobs until enough have run, and enough images have been removed meanwhile."""
        source = random.Random(seed)
        client = self.engine.client()
        while (number := self._next()) is not None:
            project = source.randrange(len(self.images))
            job = Job(number, self.images[project].reference, self.images[project].image_id, time.time())
            try:
                self._run(client, source, job, project)
            except (docker.errors.NotFound, PullError) as error:
                # A pull that meets the removal may fail, too: the engine loses its lease on what the image is made of.
                self.seen["jobs lost"] += 1
                self.lost.append((replace(job), time.time(), str(error)))
            except docker.errors.APIError as error:
                self.faults.append(f"job {number}: {error}")
            time.sleep(max(0.0, job.began + PACE_S - time.time()))
        client.close()

    def _next(self) -> int | None:
        with self.lock:
            enough = self.begun >= JOBS and len(self.removed) >= REMOVALS
            if enough or time.monotonic() > self.until:
                return None
            self.begun += 1
            return self.begun

    def _run(self, client: docker.DockerClient, source: random.Random, job: Job, project: int) -> None:
        policy = source.choice(("always", "if-not-present"))
        image = self._get(client, job, policy)
        first = self._create(client, client.images.get(self.helper).id, job.number, project, "predefined")
        time.sleep(source.uniform(0, MIN_AGE_S / 4))
        try:
            if client.images.get(job.reference).id != image:
                self.faults.append(f"job {job.number}: {job.reference} is another image")
        except docker.errors.ImageNotFound:
            self.seen["vanished"] += 1
            if math.isfinite(job.pulled):
                self.lost.append((replace(job), time.time(), "vanished before the build container"))
            image = self._get(client, job, "always")
        build = self._create(client, image, job.number, project, "build")
        time.sleep(source.uniform(0, 0.1))
        build.reload()
        assert build.attrs["Image"] == image
        client.images.get(image)
        build.remove(v=True, force=True)
        first.remove(v=True, force=True)
        self.seen["jobs"] += 1

    def _get(self, client: docker.DockerClient, job: Job, policy: str) -> str:
        """The image's ID."""
        if policy == "if-not-present":
            try:
                return str(client.images.get(job.reference).id)
            except docker.errors.ImageNotFound:
                pass
        pull(client, job.reference)
        job.pulled = time.time()
        self.seen["pulls"] += 1
        return str(client.images.get(job.reference).id)

    def _create(
        self, client: docker.DockerClient, image: str | None, number: int, project: int, kind: str
    ) -> Container:
        labels = {f"{PREFIX}job.id": str(number), f"{PREFIX}project.id": str(project), f"{PREFIX}type": kind}
        return client.containers.create(str(image), ["/bin/true"], network_mode="none", labels=labels)
