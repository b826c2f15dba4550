"""How workers share the tests (`pytest -n 3 --dist worksteal`): nobody begins a long one when the others are done."""

from __future__ import annotations

import os

import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def with_long_ones_first(items: list[pytest.Item], workers: int = WORKERS) -> list[pytest.Item]:
    """The tests in an order in which each of so many equal parts begins with its share of the long ones.

    Such parts are what the workers get at first: what is left in the end is short.
    """
    if workers == 1:
        return items
    long = [item for item in items if item.get_closest_marker("long") is not None]
    others = [item for item in items if item.get_closest_marker("long") is None]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        part = (len(items) - len(ordered)) // (workers - worker)
        own = long[worker::workers]
        count = max(0, part - len(own))
        ordered += [*own, *others[:count]]
        del others[:count]
    return [*ordered, *others]
