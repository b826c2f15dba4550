"""The collector's picture of the engine stays true through whatever is done to images."""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress

import docker.errors
import pytest
from docker.models.images import Image

from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import PushedImage, Registry, base_layer, random_layer

pytestmark = pytest.mark.engine
STEPS = 40
MIB = 2**20


class Operator:
    """Somebody who does all kinds of things to the images of an engine, at random but repeatably."""

    def __init__(self, engine: Engine, registry: Registry, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = engine.client()
        self.registry = registry
        self.serial = 100 * seed
        self.pushed: list[PushedImage] = []
        self.done: list[str] = [f"seed {seed}"]
        # What each container was created from: container ID to image ID at that time.
        self.created: dict[str, str] = {}
        self.witnessed: set[str] = set()
        for name in ("one", "two", "three"):
            self.push(name)

    def step(self) -> None:
        """Do one thing; what the engine refuses is no matter."""
        doing = self.random.choice(
            (
                *(self.pull, self.pull, self.pull_digest, self.tag, self.untag, self.move_tag, self.remove, self.load),
                *(self.import_, self.commit, self.build, self.create, self.create, self.drop),
            )
        )
        self.done.append(doing.__name__)
        try:
            doing()
        except docker.errors.APIError as error:
            self.done[-1] += f" refused: {error.explanation}"

    def push(self, name: str) -> None:
        self.serial += 1
        layers = [base_layer(), random_layer(self.serial % 3, MIB), random_layer(self.serial, MIB)]
        self.pushed.append(self.registry.push_image(f"ops/{name}", "latest", layers))

    def pull(self) -> None:
        self.client.images.pull(self.random.choice(self.pushed).reference)

    def pull_digest(self) -> None:
        chosen = self.random.choice(self.pushed)
        repository = chosen.reference.rpartition(":")[0]
        self.client.api.pull(f"{repository}@{chosen.digest}")

    def move_tag(self) -> None:
        self.push(self.random.choice(["one", "two", "three"]))
        self.client.images.pull(self.pushed[-1].reference)

    def tag(self) -> None:
        self.any_image(lambda image: image.tag("local/" + self.random.choice("abc"), self.random.choice("12")))

    def untag(self) -> None:
        def one_tag(image: Image) -> None:
            if image.tags:
                self.client.images.remove(self.random.choice(image.tags))

        self.any_image(one_tag)

    def remove(self) -> None:
        def all_tags(image: Image) -> None:
            for tag in image.tags:
                self.client.images.remove(tag)

        self.any_image(all_tags)

    def load(self) -> None:
        def save_and_load(image: Image) -> None:
            if image.tags:
                data = b"".join(image.save(named=image.tags[0]))
                self.client.images.remove(image.tags[0])
                self.client.images.load(data)

        self.any_image(save_and_load)

    def import_(self) -> None:
        self.serial += 1
        self.client.api.import_image_from_data(tar(f"file {self.serial}"), "imported/x", str(self.serial % 4))

    def commit(self) -> None:
        if self.created:
            container = self.client.containers.get(self.random.choice(sorted(self.created)))
            container.commit("committed/x", str(self.serial % 4))

    def build(self) -> None:
        self.serial += 1

        def from_(image: Image) -> None:
            if image.tags:
                recipe = f"FROM {image.tags[0]}\nLABEL serial={self.serial}\n".encode()
                self.client.images.build(fileobj=io.BytesIO(recipe), tag=f"built/x:{self.serial % 4}", rm=True)

        self.any_image(from_)

    def create(self) -> None:
        def container_of(image: Image) -> None:
            names = [*image.tags, str(image.id), *(image.attrs.get("RepoDigests") or [])]
            made = self.client.containers.create(self.random.choice(names), ["true"], network_mode="none")
            self.created[str(made.id)] = str(image.id)

        self.any_image(container_of)

    def drop(self) -> None:
        # Of a container that is gone before anybody could ask, an engine that tells names only no longer tells
        # what a name meant that has moved since: only what was there at the last look is dropped.
        if len(self.witnessed) > 1:
            chosen = self.random.choice(sorted(self.witnessed))
            self.client.containers.get(chosen).remove()

    def any_image(self, act: Callable[[Image], object]) -> None:
        images = sorted(self.client.images.list(), key=lambda image: str(image.id))
        if images:
            act(self.random.choice(images))

    def inventory(self) -> dict[str, list[str]]:
        """Image ID to its tags, as the engine lists them."""
        return {str(image.id): sorted(image.tags) for image in self.client.images.list()}


def tar(text: str) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


# Fixed ones for what once went wrong, and a new one each day, which a failure tells.
SEEDS = [1, int(time.time() // 86400)]


@pytest.mark.parametrize("seed", SEEDS, ids=["fixed", "of-the-day"])
def test_the_log_knows_what_the_engine_holds(any_engine: Engine, registry: Registry, seed: int) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    operator = Operator(any_engine, registry, seed)

    def projected() -> dict[str, list[str]]:
        return {row["image_id"]: row["references"] for row in host.json("collector", "images")}

    with host.collecting():
        for _ in range(STEPS // 10):
            for _ in range(10):
                operator.step()
            with suppress(AssertionError):
                host.wait_for(lambda: projected() == operator.inventory(), "the log to follow", patience=8)
            assert projected() == operator.inventory(), operator.done
            operator.witnessed = set(operator.created)
    used = dict(host.log.query("SELECT DISTINCT container, image_id FROM events WHERE kind = 'container_created'"))
    # A classic build makes containers of its own.
    assert {container: used.get(container) for container in operator.created} == operator.created, operator.done
    # What was built begins with the layers of what it was built on, though no event tells that.
    assert host.count("base_used") >= int("build" in operator.done), operator.done
    assert sum("refused" in done for done in operator.done) < STEPS // 2, operator.done
    operator.client.close()
