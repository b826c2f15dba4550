"""Cases by which tools test themselves, as far as a baseline can express them: inputs and what must go, no code.

kubelet: `pkg/kubelet/images/image_gc_manager_test.go` of kubernetes/kubernetes. A call of its `freeSpace` is a disk
that lacks as much here. Left out, and why:

- the four about detecting images look at records in memory, which show here only by what goes;
- the one in which cadvisor fails: a simulated disk can always be measured;
- that an error is returned where too little could be freed: a baseline returns nothing, what went is checked;
- the four that delete all unused images, two of them with pinned ones: the node's eviction manager asks for that,
  which is not simulated;
- `DoNotDeletePinnedImage` and `AllPinnedImages`: no log says which images a runtime has pinned;
- `ValidateImageGCPolicy`: the baseline has the defaults.

Amazon ECS agent: `agent/engine/docker_image_manager_test.go` and `..._integ_test.go` of aws/amazon-ecs-agent.
Left out:

- those about references, names, digests and state in memory, about inspection that fails, and about a deadlock: what
  they check shows in no removal;
- `ImageCleanupCannotRemoveImage`: a simulated removal never fails; `...RemoveImageById`: no image is without a name;
- those with exclusion lists and the `NonECS` ones: the baseline has the defaults, under which neither is in force.

arvados: `services/dockercleaner/tests/test_cleaner.py` of arvados/arvados. Its `should_delete` is asked once, last;
a baseline cleans at each beginning and end of a container, so containers end together here. Left out:

- those about events, containers, sizes in words, configuration and images that others delete: no removal follows;
- `failed_deletion_handling`: a simulated removal never fails;
- `images_loaded_from_daemon`, `target_size_set_from_daemon`: a baseline knows the images that a container has used.

docuum: `integration-test.sh` and `src/run.rs` of stepchowfun/docuum. `--keep` is not simulated: the image that it
protects is one in use here. Left out are those about its graph of parents: images have layers here, and no parents.

Nothing to carry over: docker-gc (`tests/` of spotify/docker-gc removes only volumes), GitLab's clear-docker-cache (the
mirror of its project at gitlabhq/gitlab-runner has no test of it).
"""

from __future__ import annotations

import pytest

from analyzer.baselines.by_age import Ecs
from analyzer.baselines.by_space import Arvados, Docuum, Kubelet
from bench.made import DiskState
from tests.analyzer.test_baselines import A, B, C, D, alone, gone

MINUTE = 60.0
NEVER_ENDS = 10**6
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
        pytest.param(
            (1024, 1024),
            [(1.0, A, 2.0), (1.0, B, 2.0)],
            [DiskState(0, 2176, 0), DiskState(6 * MINUTE, 2560, 2432)],
            [(10 * MINUTE, A), (10 * MINUTE, B)],
            id="DeleteUnPinnedImage: both go where both are asked for",
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


@pytest.mark.parametrize(
    ("max_age", "expected"),
    [
        pytest.param(6 * MINUTE, [(15 * MINUTE, A)], id="GarbageCollectImageTooOld"),
        pytest.param(5 * MINUTE, [(15 * MINUTE, A)], id="GarbageCollectImageTooOld: at the age itself it stays"),
        pytest.param(None, [], id="GarbageCollectImageMaxAgeDisabled"),
    ],
)
def test_kubelet_by_age(max_age: float | None, expected: list[tuple[float, int]]) -> None:
    """Of two images one is in use, the other was when it was last seen so, at the poll after five minutes."""
    uses = [(1.0, A, 6 * MINUTE), (1.0, B, NEVER_ENDS)]
    ample = [DiskState(0, AMPLE, 0)]
    assert gone(Kubelet(90, 80, max_age), alone(1024, 2048), *uses, disk=ample, end=NEVER_ENDS) == expected


E, F = 4, 5


@pytest.mark.parametrize(
    ("agent", "uses", "expected"),
    [
        pytest.param(Ecs(interval=100, kept=0), [(80, A, 81)], [], id="GetCandidateImagesForDeletionImageJustPulled"),
        pytest.param(
            Ecs(interval=100, kept=0, age=1),
            [(1, A, NEVER_ENDS)],
            [],
            id="GetCandidateImagesForDeletionImageHasContainerReference",
        ),
        pytest.param(
            Ecs(interval=100, kept=0, age=1),
            [(1, A, 10), (2, A, NEVER_ENDS)],
            [],
            id="GetCandidateImagesForDeletionImageHasMoreContainerReferences",
        ),
        pytest.param(
            Ecs(interval=100, kept=0, age=1),
            [(49, A, 50), (69, B, 70), (79, C, 80), (39, D, 40), (59, E, 60), (89, F, 90)],
            [(100, D), (100, A), (100, E), (100, B), (100, C)],
            id="GetLeastRecentlyUsedImages",
        ),
        pytest.param(
            Ecs(interval=100, kept=0, age=1),
            [(49, A, 50), (69, B, 70), (79, C, 80)],
            [(100, A), (100, B), (100, C)],
            id="GetLeastRecentlyUsedImagesLessThanFive",
        ),
        pytest.param(
            Ecs(interval=100, kept=0, age=0.001), [(1, A, 2)], [(100, A)], id="ImageCleanupHappyPath, with one name"
        ),
        pytest.param(
            Ecs(count=2, interval=100, kept=5, age=1),
            [(1, A, 10), (1, B, 20), (1, C, 30)],
            [(100, A), (100, B)],
            id="IntegImageCleanupHappyCase: the third only in the next cycle",
        ),
        pytest.param(
            Ecs(count=3, interval=100, kept=1, age=15),
            [(75, C, 76), (80, A, 81), (90, B, 91), (95, C, 96)],
            [(100, A), (100, C)],
            id="IntegImageCleanupThreshold: recorded 20, 10 and 25 ago, and 15 are asked for",
        ),
    ],
)
def test_ecs_agent(agent: Ecs, uses: list[tuple[float, int, float]], expected: list[tuple[float, int]]) -> None:
    assert gone(agent, alone(*[10] * 6), *uses, end=150) == expected


@pytest.mark.parametrize(
    ("quota", "sizes", "uses", "expected"),
    [
        pytest.param(1, (50, 50), [(1, A, 10), (2, B, 10)], [(10, A)], id="one_image_always_kept"),
        pytest.param(
            45,
            (20, 30, 40, 10),
            [(1, A, 10), (2, B, 10), (3, C, 10), (4, D, 10)],
            [(10, A), (10, C)],
            id="images_under_target_not_deletable",
        ),
        pytest.param(1, (50, 50), [(1, A, NEVER_ENDS), (2, B, 10)], [(10, B)], id="images_in_use_not_deletable"),
        pytest.param(1, (50, 50), [(1, A, 10), (2, B, NEVER_ENDS)], [(10, A)], id="image_deletable_after_unused"),
        pytest.param(1, (50,), [(1, A, 10), (20, A, NEVER_ENDS)], [], id="image_not_deletable_if_user_restarts"),
        pytest.param(1, (50,), [(1, A, 10), (2, A, NEVER_ENDS)], [], id="image_not_deletable_if_any_user_remains"),
        pytest.param(
            1,
            (50, 50),
            [(1, A, NEVER_ENDS), (2, B, 10), (3, B, 12)],
            [(12, B)],
            id="image_deletable_after_all_users_end",
        ),
        pytest.param(
            1,
            (10, 10, 10),
            [(3, A, 10), (1, B, 10), (2, C, 10)],
            [(10, B), (10, C)],
            id="images_suggested_for_deletion_by_lru",
        ),
    ],
)
def test_arvados(
    quota: int, sizes: tuple[int, ...], uses: list[tuple[float, int, float]], expected: list[tuple[float, int]]
) -> None:
    assert gone(Arvados(quota), alone(*sizes), *uses, end=150) == expected


def test_docuum() -> None:
    """Three images of 5.5 MB under 14 MB, the first of them kept: the third makes the second go."""
    uses = [(1, A, NEVER_ENDS), (10, B, 11), (20, C, 21)]
    assert gone(Docuum(14e6), alone(*[5_500_000] * 3), *uses, end=150) == [(20, B)]
