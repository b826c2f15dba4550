"""How much each order re-pulls on histories that it was not chosen on.

Every history is replayed whole, and each order learns along the way from what lies behind. Orders are
ranked by their re-pulled bytes in the first half; the table shows the second half, beside a policy that
knows the future. Disks are small enough that re-pulls are real.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from analyzer.simulation.bounds import Clairvoyant
from analyzer.simulation.replay import replay_many
from analyzer.trace.load import load_trace
from analyzer.trace.trace import Trace
from bench._synthetic import GIB, Host, make_history
from bench._traces import mesa_log
from collector.terminal import console
from pruner.policy.orders import ORDERS
from pruner.policy.policy import Policy, Space

FIRST_SEED = 1
SYNTHETIC = (
    (Host(projects=8, pipelines=4), 0.12),
    (Host(projects=8, pipelines=10, share=0.6), 0.2),
    (Host(projects=20, pipelines=3), 0.12),
    (Host(projects=20, pipelines=2, share=0.15), 0.2),
    (Host(projects=40, pipelines=1.5), 0.12),
    (Host(projects=40, pipelines=1, share=0.1), 0.25),
    (Host(projects=15, pipelines=6, share=0.2, days=120), 0.15),
    (Host(projects=30, pipelines=1, share=0.5, days=60), 0.15),
)
"""Hosts, and their disk as a share of the bytes of all layers that they ever see."""
MESA_GIB = (23, 25, 28)
MESA_THRESHOLD = "20%"
THRESHOLD = "10%"
CLAIRVOYANT = "clairvoyant"


def histories() -> Iterator[tuple[str, Trace, Policy]]:
    """Name, history on its disk, and rules."""
    for k, (host, share) in enumerate(SYNTHETIC):
        trace = make_history(host, FIRST_SEED + k)
        disk = int(share * trace.layer_bytes.sum())
        yield f"S{FIRST_SEED + k}", on_disk(trace, disk), Policy(threshold=Space.parse(THRESHOLD))
    with tempfile.TemporaryDirectory(prefix="docker-hindsight-") as folder:
        mesa = load_trace(mesa_log(Path(folder)))
    for gib in MESA_GIB:
        yield f"MESA {gib} GIB", on_disk(mesa, gib * GIB), Policy(threshold=Space.parse(MESA_THRESHOLD))


def on_disk(trace: Trace, size: int) -> Trace:
    """The history on a disk that nothing but images fills."""
    one = np.zeros(1, dtype=np.int64)
    return replace(
        trace, disk_time=np.zeros(1), disk_total=one + size, disk_other=one, inode_total=one, inode_other=one
    )


def repulled(trace: Trace, policy: Policy) -> dict[str, int]:
    """Re-pulled bytes by order."""
    runs = replay_many(trace, [*(replace(policy, order=order) for order in ORDERS), Clairvoyant(policy, trace)])
    return {order: result.repulled_bytes for order, result in zip([*ORDERS, CLAIRVOYANT], runs, strict=True)}


def compare() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    """Re-pulled bytes by history and order, in the first half and in the second."""
    first: dict[str, dict[str, int]] = {}
    second: dict[str, dict[str, int]] = {}
    for name, trace, policy in histories():
        early = trace.between(0.0, trace.end / 2)
        first[name] = repulled(early, policy)
        whole = repulled(trace, policy)
        second[name] = {order: max(0, whole[order] - first[name][order]) for order in whole}
    return first, second


def mean_ratio(found: dict[str, dict[str, int]], order: str) -> float:
    """Geometric mean over histories of an order's re-pulled bytes against lru's; a GiB is added to both."""
    return float(np.exp(np.mean([np.log((row[order] + GIB) / (row["lru"] + GIB)) for row in found.values()])))


def run() -> None:
    """Print the table."""
    first, second = compare()
    orders = sorted(ORDERS, key=lambda order: mean_ratio(first, order))
    rows = [
        [
            order,
            f"{mean_ratio(first, order):.2f}",
            f"{mean_ratio(second, order):.2f}",
            *(f"{row[order] / row['lru']:.2f}" if row["lru"] else "-" for row in second.values()),
        ]
        for order in [*orders, CLAIRVOYANT]
    ]
    rows.append(["lru, GiB", "", "", *(f"{row['lru'] / GIB:,.0f}" for row in second.values())])
    columns = ["ORDER", "FIRST HALF", "SECOND HALF", *second]
    console.print_text("Re-pulled bytes against lru: geometric means, and each history's second half.")
    console.print_table(columns, rows, right=columns[1:])
