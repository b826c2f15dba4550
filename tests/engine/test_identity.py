"""The collector's picture of the engine stays true through whatever is done to images."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress

import docker.errors
import pytest
from docker.models.images import Image

from tests.engine.builds import Builder, build, builders
from tests.engine.engines import Engine, tags_by_image
from tests.engine.host import Host
from tests.engine.registry import PushedImage, Registry, base_layer, random_layer
from tests.needs import UNDER_CI

pytestmark = pytest.mark.engine
STEPS = 40
MIB = 2**20


class Operator:
    """Somebody who does all kinds of things to the images of an engine, at random but repeatably."""

    def __init__(self, engine: Engine, registry: Registry, seed: int) -> None:
        self.random = random.Random(seed)
        self.engine = engine
        self.client = engine.client()
        self.registry = registry
        self.serial = 100 * seed
        self.pushed: list[PushedImage] = []
        self.done: list[str] = [f"seed {seed}"]
        # What each container was created from: container ID to image ID at that time.
        self.created: dict[str, str] = {}
        self.existing: set[str] = set()
        # What each built image was built on, by their IDs.
        self.built: dict[str, str] = {}
        # Images that were there after every step since `lasting` was last set.
        self.lasting: set[str] = set()
        for name in ("one", "two", "three"):
            self.push(name)

    def step(self) -> None:
        """Do one thing; what the engine refuses is no matter."""
        doing = self.random.choice(
            (
                *(self.pull, self.pull, self.pull_digest, self.tag, self.untag, self.move_tag, self.remove, self.load),
                *(self.import_, self.commit, self.label, self.build, self.create, self.create, self.drop),
            )
        )
        self.done.append(doing.__name__)
        try:
            doing()
        except docker.errors.APIError as error:
            self.done[-1] += f" refused: {error.explanation}"
        except subprocess.CalledProcessError as error:
            self.done[-1] += f" refused: {error.stderr}"
        # Who is gone for a moment only was not there all the time.
        self.lasting &= self.inventory().keys()

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
                builder = self.random.choice(builders(self.engine))
                before = self.inventory().keys()
                made = build(self.engine, builder, image.tags[0], f"built/y:{self.serial % 4}", f"{self.serial}")
                if made not in before:
                    self.built[made] = str(image.id)
                    self.lasting.add(made)

        self.any_image(from_)

    def label(self) -> None:
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
        # Of a container that is gone before anybody could ask, an engine that gives names only no longer gives
        # what a name meant that has moved since: only what was there at the last look is dropped.
        if len(self.existing) > 1:
            chosen = self.random.choice(sorted(self.existing))
            self.client.containers.get(chosen).remove()

    def any_image(self, act: Callable[[Image], object]) -> None:
        images = sorted(tags_by_image(self.client))
        if images:
            act(self.client.images.get(self.random.choice(images)))

    def inventory(self) -> dict[str, list[str]]:
        """Image ID to its tags, as the engine lists them."""
        return tags_by_image(self.client)


def tar(text: str) -> bytes:
    """A tar archive of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


# To compare everything takes a processor a while, which the collector needs; it looks itself once a second.
LOOK_S = 0.5
# A fixed one, and a new one each day, which a failure names; a gate judges a change, so it takes no new one.
SEEDS = [1, 2 if UNDER_CI else int(time.time() // 86400)]


@pytest.mark.parametrize("seed", SEEDS, ids=["fixed", "other"])
def test_the_log_knows_what_the_engine_holds(any_engine: Engine, registry: Registry, seed: int) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    operator = Operator(any_engine, registry, seed)

    def projected() -> dict[str, list[str]]:
        return {row["image_id"]: row["references"] for row in host.json("collector", "images")}

    # BuildKit on the containerd store leaves no event: what it built is found when containers are listed.
    bases: dict[str, str] = {}
    with host.collecting("--listing-interval", "1s"):
        for _ in range(STEPS // 10):
            operator.built.clear()
            operator.lasting = {*operator.inventory()}
            for _ in range(10):
                operator.step()
            with suppress(AssertionError):
                host.wait_for(lambda: projected() == operator.inventory(), "the log to follow", every=LOOK_S)
            assert projected() == operator.inventory(), operator.done
            operator.existing = set(operator.created)
            bases |= {made: on for made, on in operator.built.items() if {made, on} <= operator.lasting}
    used = dict(host.log.query("SELECT DISTINCT container, image_id FROM events WHERE kind = 'container_created'"))
    # A classic build makes containers of its own.
    assert {container: used.get(container) for container in operator.created} == operator.created, operator.done
    # What was built begins with the layers of what it was built on, though no event says so.
    for made, on in bases.items():
        assert on in credits_of(host, made), (made, on, operator.done)
    assert host.count("base_used") >= int("label" in operator.done), operator.done
    assert sum("refused" in done for done in operator.done) < STEPS // 2, operator.done
    operator.client.close()


def credits_of(host: Host, made: str) -> set[str]:
    """Which images count as used by the building of another, by their IDs.

    The containerd store lists the classic builder's steps while it builds: they may stand between.
    """
    direct: dict[str, set[str]] = {}
    for by, on in host.query("SELECT attributes ->> '$.by', image_id FROM events WHERE kind = 'base_used'"):
        direct.setdefault(by, set()).add(on)
    found: set[str] = set()
    new = {made}
    while new:
        new = set().union(*(direct.get(image, set()) for image in new)) - found
        found |= new
    return found


def test_builds_are_known_with_what_they_were_built_on(any_engine: Engine, registry: Registry) -> None:
    present, absent = (
        registry.push_image(f"from/{name}", "1", [base_layer(), random_layer(seed, 2 * MIB)])
        for seed, name in ((301, "present"), (302, "absent"))
    )
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    client = any_engine.client()
    client.images.pull(present.reference)
    base = str(client.images.get(present.reference).id)

    def shown() -> dict[str, list[str]]:
        return {row["image_id"]: row["references"] for row in host.json("collector", "images")}

    def listed() -> dict[str, list[str]]:
        return tags_by_image(client)

    with host.collecting("--listing-interval", "1s"):
        host.wait_for_events("image_observed", 1)
        for builder in builders(any_engine):
            first = build(any_engine, builder, present.reference, "built/it:1", f"{builder} first")
            wait_for_credit(host, first, base)
            # The tag moves from one built image to the next.
            began = time.time()
            second = build(any_engine, builder, present.reference, "built/it:1", f"{builder} second")
            wait_for_credit(host, second, base)
            assert first != second
            ((used,),) = host.log.query("SELECT epoch_ns(last_use) / 1e9 FROM last_use WHERE image_id = ?", [base])
            assert began < used <= time.time()

            # An image that is not there is pulled by the classic builder; BuildKit keeps it to itself.
            output = len(events_of(host, absent.reference))
            made = build(any_engine, builder, absent.reference, f"built/on-absent:{builder.value}", f"{builder}")
            host.wait_for(lambda: shown() == listed(), "the log to follow", every=LOOK_S)
            if builder is Builder.CLASSIC:
                wait_for_credit(host, made)
                client.images.remove(absent.reference)
                host.wait_for(lambda: shown() == listed(), "the removal", every=LOOK_S)
            else:
                # The blind spot: nothing reports it. What was built holds its layers.
                assert len(events_of(host, absent.reference)) == output
                assert not credits_of(host, made)
                assert len(layers(host, made)) == len(layers(host, second))
        # Its layers protect the base: removing it would free nothing.
        (own,) = (row["own_bytes"] for row in host.json("collector", "images") if row["image_id"] == base)
        assert own == 0
        # A digest of its repository does not mean that a registry has it, where every image has one.
        local = dict(host.log.query("SELECT image_id, local FROM images"))
        assert not local[base]
        assert local[second] or any_engine.is_podman
        above = layers(host, second)
        assert layers(host, base) == above[: len(layers(host, base))]
    assert host.count("gap") == 0
    client.close()


def wait_for_credit(host: Host, made: str, base: str | None = None) -> None:
    """Wait until an image (None: any) counts as used by the building of another."""

    def credited() -> bool:
        found = credits_of(host, made)
        return base in found if base else bool(found)

    host.wait_for(credited, f"the base of {made}")


def events_of(host: Host, reference: str) -> list[str]:
    """The kinds of the events that name a reference, in order."""
    return [str(row[0]) for row in host.log.query("SELECT kind FROM event WHERE reference = ?", [reference])]


def layers(host: Host, image: str) -> list[str]:
    """The layers of an image as the log has them, base first."""
    rows = host.log.query("SELECT chain_id FROM image_layers WHERE image_id = ? ORDER BY position", [image])
    return [str(row[0]) for row in rows]
