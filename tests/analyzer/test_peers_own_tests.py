"""Cases by which tools test themselves, as far as a baseline can express them: inputs and what must go, no code.

kubelet: `pkg/kubelet/images/image_gc_manager_test.go` of kubernetes/kubernetes. A call of its `freeSpace` is a disk
that lacks as much here. Left out, and why:

- the four about detecting images look at records in memory, which show here only by what goes;
- the one in which cadvisor fails: a simulated disk can always be measured;
- that an error is returned where too little could be freed: a baseline returns nothing, what went is checked;
- the one about deleting all unused images: the node's eviction manager asks for that, which is not simulated.
"""

from __future__ import annotations

import pytest

from analyzer.baselines.by_space import Kubelet
from analyzer.trace.trace import DiskState
from tests.analyzer.test_baselines import A, B, alone, gone

MINUTE = 60.0
# Of two images of 1,024 and 2,048 bytes 3,072 are held: 128 are free and 640 have to be.
SHORT = 3200
AMPLE = 10**6
LATE = [DiskState(0, AMPLE, 0), DiskState(14 * MINUTE, SHORT, 0)]


@pytest.mark.parametrize(
    ("sizes", "uses", "disk", "expected"),
    [
        pytest.param(
            (1024, 2048),
            [(1.0, A, 2.0), (1.0, B, 60 * MINUTE)],
            [DiskState(0, SHORT, 0)],
            [(10 * MINUTE, A)],
            id="FreeSpaceImagesInUseContainersAreIgnored, GarbageCollectImageNotOldEnough",
        ),
        pytest.param(
            (1024, 2048),
            [(1.0, A, 6 * MINUTE), (1.0, B, 12 * MINUTE)],
            LATE,
            [(15 * MINUTE, A)],
            id="FreeSpaceRemoveByLeastRecentlyUsed",
        ),
        pytest.param(
            (1024, 2048),
            [(1.0, A, 12 * MINUTE), (6 * MINUTE, B, 7 * MINUTE)],
            LATE,
            [(15 * MINUTE, B)],
            id="FreeSpaceTiesBrokenByDetectedTime: what no poll saw in use goes, although detected later",
        ),
        pytest.param((400,), [(1.0, A, 2.0)], [DiskState(0, 1000, 0)], [], id="GarbageCollectBelowLowThreshold"),
        pytest.param(
            (450,), [(1.0, A, 2.0)], [DiskState(0, 1000, 500)], [(10 * MINUTE, A)], id="GarbageCollectBelowSuccess"
        ),
        pytest.param(
            (50,), [(1.0, A, 2.0)], [DiskState(0, 1000, 900)], [(10 * MINUTE, A)], id="GarbageCollectNotEnoughFreed"
        ),
    ],
)
def test_kubelet(
    sizes: tuple[int, ...],
    uses: list[tuple[float, int, float]],
    disk: list[DiskState],
    expected: list[tuple[float, int]],
) -> None:
    """Each image is detected by the first poll after it has come, and two minutes old at the next."""
    assert gone(Kubelet(90, 80), alone(*sizes), *uses, disk=disk, end=16 * MINUTE) == expected
