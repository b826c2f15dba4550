"""Jobs on an engine, and an independent record of all that it says."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from typing import Any

import docker.errors
import requests
from docker.models.containers import Container

from tests.engine.engines import Engine
from tests.engine.registry import Registry, base_layer, random_layer
from tests.engine.runner import PREFIX, PullError, pull

IMAGES = 12
THREADS = 3
# The name of the last thing that happens: whoever knows of it knows of all before it.
LAST = "torture/last"
_FLOOD_TAGS = 10
# Events; an engine remembers 256.
_ENGINE_REMEMBERS = 300
# Of all jobs, those that give a tag, that leave their container behind, and that take their volume along: a pruner
# that is killed after a few removals must keep up with the rest.
_TAG, _LITTER, _CLEAN = 0.2, 0.05, 0.95
# What an image and each of its volumes hold, bytes.
_LAYER = 2**19
# Between two jobs, seconds.
_PAUSE_S = (0.2, 1.0)
_REFUSED = (docker.errors.APIError, PullError, requests.RequestException)


def push_images(registry: Registry, engine: Engine) -> list[str]:
    """References of images that jobs may use; the engine has none of them yet."""
    name = f"torture-{engine.variant}"
    return [
        registry.push_image(name, str(k), [base_layer(), random_layer(4000 + k, _LAYER)]).reference
        for k in range(IMAGES)
    ]


class Capture:
    """All events of an engine, taken by a thread that does nothing else.

    Args:
        engine: the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.events: list[dict[str, Any]] = []
        self._client = engine.client()
        self._stream = self._client.api.events(decode=True)
        threading.Thread(target=self._drain, name="capture", daemon=True).start()

    def _drain(self) -> None:
        with suppress(requests.RequestException, docker.errors.DockerException, ValueError, AttributeError):
            for event in self._stream:
                self.events.append(event)

    def close(self) -> None:
        """End it."""
        self._stream.close()
        self._client.close()

    def has_last(self) -> bool:
        """Whether the last thing that happened has come."""
        return any(LAST in _name(event) for event in self.events[-50:])


def _name(event: dict[str, Any]) -> str:
    return str(event["Actor"]["Attributes"].get("name"))


class Traffic:
    """Jobs, several at once: some pull, run and clean up, some leave a container or a volume behind, some tag.

    Args:
        engine: the engine.
        references: the images that jobs use.
        over: when to end.
        seed: of what each job does.
    """

    def __init__(self, engine: Engine, references: list[str], over: threading.Event, seed: int) -> None:
        self._engine = engine
        self._references = references
        self._over = over
        # What jobs themselves removed: IDs of containers.
        self.removed: set[str] = set()
        self.jobs = 0
        self.refused = 0
        self._threads = [threading.Thread(target=self._work, args=(seed * 1000 + k,)) for k in range(THREADS)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the last job."""
        for thread in self._threads:
            thread.join()

    def flood(self) -> None:
        """Some events that a log must hold or call lost, and then so many others that the engine forgets them."""
        client = self._engine.client()
        for number in range(_FLOOD_TAGS):
            with suppress(*_REFUSED, IndexError):
                client.api.tag(client.api.images(quiet=True)[0], "torture/flood", str(number))
                client.api.remove_image(f"torture/flood:{number}")
        # Each emits an event and does nothing else: as many tags would take a minute.
        for _ in range(_ENGINE_REMEMBERS):
            with suppress(*_REFUSED):
                client.api.prune_networks({"label": "torture=none"})
        client.close()

    def _work(self, seed: int) -> None:
        source = random.Random(seed)
        client = self._engine.client()
        while not self._over.is_set():
            try:
                self._run_job(client, source)
            except _REFUSED:
                # The pruner was quicker, or a fault is on: the job fails, and the next begins.
                self.refused += 1
            self.jobs += 1
            time.sleep(source.uniform(*_PAUSE_S))
        client.close()

    def _run_job(self, client: docker.DockerClient, source: random.Random) -> None:
        reference = source.choice(self._references)
        pull(client, reference)
        if source.random() < _TAG:
            client.images.get(reference).tag("torture/tagged", str(source.randrange(5)))
        labels = {f"{PREFIX}job.id": str(source.randrange(10**9)), f"{PREFIX}type": "build"}
        litters = source.random() < _LITTER
        made: Container = client.containers.create(
            reference, ["true"], network_mode="none", labels={} if litters else labels, volumes=["/data"]
        )
        made.start()
        made.wait()
        if not litters:
            self.removed.add(str(made.id))
            made.remove(v=source.random() < _CLEAN, force=True)
