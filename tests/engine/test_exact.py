"""What a plan says that it frees is what the file system wins, for any set of images with shared layers."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from pruner.planning.decision import Reason
from tests.engine.engines import Engine
from tests.engine.host import Host
from tests.engine.registry import Layer, Registry, base_layer, random_layer, repetitive_layer

pytestmark = pytest.mark.engine
MIB = 2**20


def random_images(source: random.Random, seed: int, count: int) -> list[list[Layer]]:
    """Images that grow like a tree: each begins with some layers of an earlier one, and adds its own."""
    made: list[list[Layer]] = [[base_layer()]]
    for number in range(count):
        parent = source.choice(made)
        kept = parent[: source.randint(1, len(parent))]
        own = []
        for k in range(source.randint(1, 2)):
            size = source.randint(MIB, 8 * MIB)
            make = source.choice((random_layer, random_layer, repetitive_layer))
            own.append(make(10_000 * seed + 10 * number + k, size))
        made.append([*kept, *own])
    return made[1:]


@pytest.mark.parametrize("seed", [1, 2])
def test_plans_are_exact(any_engine: Engine, registry: Registry, seed: int) -> None:
    host = Host(any_engine, any_engine.folder / "log" / "events.duckdb")
    source = random.Random(seed)
    client = any_engine.client()
    # A collector takes the reserve on the engine's disk at its start; a prune would take it at its end.
    with host.collecting():
        for number, layers in enumerate(random_images(source, seed, 12)):
            client.images.pull(registry.push_image(f"exact/{seed}-{number}", "1", layers).reference)
        time.sleep(1.1)
        found = []
        for missing in (12 * MIB, 25 * MIB, None):
            before = any_engine.disk.free()
            threshold = "100%" if missing is None else f"{before + missing}B"
            options = ("--threshold", threshold, "--min-age", "1s")
            planned = host.json("pruner", "run", "--dry-run", *options)
            done = outcome(host, options)
            freed = any_engine.disk.free() - before
            names = [row["name"] for row in done["removed"]]
            # What the plan says goes, in the plan's order; the last may turn out not to be needed.
            assert (
                names
                == [row["references"][0] for row in planned["images"] if Reason[row["reason"].upper()].evicts][
                    : len(names)
                ]
            )
            found.append((sum(row["predicted_bytes"] for row in done["removed"]), freed, done["removed"]))
    client.close()
    assert all(names for _, _, names in found)
    for predicted, freed, removed in found:
        assert abs(freed - predicted) <= 0.02 * predicted + MIB, (predicted, freed, removed)


def outcome(host: Host, options: tuple[str, ...]) -> Any:
    """What a run says that it did; that it cannot make the whole disk free is not a fault."""
    return host.json("pruner", "run", *options, statuses={0, 3})
