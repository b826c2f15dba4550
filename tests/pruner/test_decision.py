"""The decision function: worked cases with exact outcomes, and what must hold for any host."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.planning.decision import Reason, evict

GB = 10**9
NEVER = (-1.0, -1.0)


@dataclass
class Host:
    """Images of (layers, last use), layers of bytes; image numbers are list positions."""

    images: list[tuple[list[int], float]]
    layers: list[int]
    blocked: dict[int, Reason] = field(default_factory=dict)
    protected: set[int] = field(default_factory=set)

    def decide(
        self,
        free: float,
        threshold: float,
        target: float | None = None,
        emergency: float | None = None,
        now: float = 1000.0,
        min_age: float = 0.0,
        idle: float = 1e9,
        inodes: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> list[Reason]:
        target = threshold if target is None else target
        emergency = threshold if emergency is None else emergency
        first, layer = [0], []
        holders = [0] * len(self.layers)
        for held, _ in self.images:
            layer += held
            first.append(len(layer))
            for j in held:
                holders[j] += 1
        last_use = [use for _, use in self.images]
        verdict = [-1] * len(self.images)
        evict(
            sorted(range(len(self.images)), key=lambda i: (last_use[i], i)),
            [int(self.blocked.get(i, 0)) for i in range(len(self.images))],
            [i in self.protected for i in range(len(self.images))],
            last_use,
            now - min_age,
            now - idle,
            (free, inodes[0]),
            (threshold, inodes[1]),
            (target, inodes[1]),
            (emergency, inodes[1]) if emergency >= 0 else NEVER,
            first,
            layer,
            self.layers,
            [inodes[2]] * len(self.layers),
            holders,
            verdict,
        )
        return [Reason(value) for value in verdict]


def test_nothing_goes_while_there_is_space() -> None:
    host = Host([([0], 1.0), ([1], 2.0)], [5, 5], blocked={1: Reason.PINNED})
    assert host.decide(free=10, threshold=10) == [Reason.ENOUGH_SPACE, Reason.PINNED]


def test_the_least_recently_used_go_until_the_target() -> None:
    host = Host([([0], 30.0), ([1], 10.0), ([2], 20.0)], [4, 4, 4])
    assert host.decide(free=0, threshold=5) == [Reason.TARGET_REACHED, Reason.EVICT, Reason.EVICT]
    assert host.decide(free=1, threshold=5) == [Reason.TARGET_REACHED, Reason.EVICT, Reason.TARGET_REACHED]
    assert host.decide(free=1, threshold=5, target=9) == [Reason.TARGET_REACHED, Reason.EVICT, Reason.EVICT]


def test_a_shared_layer_is_freed_once_and_only_with_its_last_holder() -> None:
    # 0 and 1 share layer 0 (10); each has 1 of its own.
    host = Host([([0, 1], 1.0), ([0, 2], 2.0), ([3], 3.0)], [10, 1, 1, 5])
    assert host.decide(free=0, threshold=12)[:2] == [Reason.EVICT, Reason.EVICT]
    assert host.decide(free=0, threshold=12)[2] is Reason.TARGET_REACHED
    assert host.decide(free=0, threshold=13)[2] is Reason.EVICT


def test_an_image_whose_layers_all_stay_frees_nothing_and_stays() -> None:
    host = Host([([0], 1.0), ([0, 1], 2.0), ([2], 3.0)], [10, 1, 5], blocked={1: Reason.PINNED})
    assert host.decide(free=0, threshold=5) == [Reason.FREES_NOTHING, Reason.PINNED, Reason.EVICT]


def test_twins_free_nothing_alone_but_go_together() -> None:
    host = Host([([0], 1.0), ([0], 2.0)], [10])
    assert host.decide(free=0, threshold=10) == [Reason.EVICT, Reason.EVICT]


def test_young_local_and_held_images_stay() -> None:
    host = Host(
        [([0], 1.0), ([1], 2.0), ([2], 990.0), ([3], 3.0)],
        [1, 1, 1, 1],
        blocked={0: Reason.LOCAL, 1: Reason.HELD},
    )
    assert host.decide(free=0, threshold=100, min_age=60) == [Reason.LOCAL, Reason.HELD, Reason.YOUNG, Reason.EVICT]


def test_protected_images_go_last_in_an_emergency_only_and_no_further() -> None:
    host = Host([([0], 1.0), ([1], 2.0), ([2], 3.0)], [4, 4, 4], protected={0, 1})
    assert host.decide(free=0, threshold=4) == [Reason.PROTECTED, Reason.PROTECTED, Reason.EVICT]
    assert host.decide(free=0, threshold=8) == [Reason.EVICT_EMERGENCY, Reason.PROTECTED, Reason.EVICT]
    assert host.decide(free=0, threshold=12, emergency=5)[:2] == [Reason.EVICT_EMERGENCY, Reason.PROTECTED]
    assert host.decide(free=0, threshold=12, emergency=4)[:2] == [Reason.PROTECTED, Reason.PROTECTED]
    assert host.decide(free=0, threshold=12, emergency=-1)[:2] == [Reason.PROTECTED, Reason.PROTECTED]


def test_in_an_emergency_a_protected_image_goes_with_its_unprotected_twin() -> None:
    host = Host([([0], 1.0), ([0], 2.0)], [10], protected={1})
    assert host.decide(free=0, threshold=10) == [Reason.EVICT_TOGETHER, Reason.EVICT_EMERGENCY]
    assert host.decide(free=0, threshold=10, emergency=-1) == [Reason.FREES_NOTHING, Reason.PROTECTED]
    # Nothing comes of it while a third one, which may not go, holds the same layer.
    host = Host([([0], 1.0), ([0], 2.0), ([0], 3.0)], [10], protected={1}, blocked={2: Reason.PINNED})
    assert host.decide(free=0, threshold=10) == [Reason.FREES_NOTHING, Reason.FREES_NOTHING, Reason.PINNED]


def test_in_an_emergency_only_those_given_back_go_whose_layers_are_freed() -> None:
    # 0 shares all with 3, and 1 with 2; both of these are protected, and 2 alone suffices.
    host = Host([([0], 1.0), ([1], 2.0), ([1, 2], 3.0), ([0], 4.0), ([3], 5.0)], [10, 10, 5, 3], protected={2, 3})
    assert host.decide(free=0, threshold=18) == [
        Reason.FREES_NOTHING,
        Reason.EVICT_TOGETHER,
        Reason.EVICT_EMERGENCY,
        Reason.PROTECTED,
        Reason.EVICT,
    ]
    assert host.decide(free=0, threshold=19)[:4] == [
        Reason.EVICT_TOGETHER,
        Reason.EVICT_TOGETHER,
        Reason.EVICT_EMERGENCY,
        Reason.EVICT_EMERGENCY,
    ]


def test_protection_lapses_when_idle() -> None:
    host = Host([([0], 1.0), ([1], 900.0)], [4, 4], protected={0, 1})
    assert host.decide(free=0, threshold=4, idle=500) == [Reason.EVICT, Reason.PROTECTED]


def test_short_inodes_trigger_as_short_bytes_do() -> None:
    host = Host([([0], 1.0), ([1], 2.0)], [4, 4])
    assert host.decide(free=100, threshold=10, inodes=(5, 10, 5)) == [Reason.EVICT, Reason.TARGET_REACHED]
    assert host.decide(free=100, threshold=10, inodes=(10, 10, 5)) == [Reason.ENOUGH_SPACE] * 2


hosts = st.integers(1, 8).flatmap(
    lambda m: st.builds(
        Host,
        st.lists(
            st.tuples(
                st.lists(st.integers(0, m - 1), min_size=1, max_size=4, unique=True), st.integers(0, 999).map(float)
            ),
            min_size=1,
            max_size=8,
        ),
        st.lists(st.integers(0, 50), min_size=m, max_size=m),
        st.dictionaries(st.integers(0, 7), st.sampled_from([Reason.PINNED, Reason.HELD, Reason.LOCAL]), max_size=3),
        st.sets(st.integers(0, 7), max_size=4),
    )
)


def freed(host: Host, gone: set[int]) -> int:
    kept = {j for i, (held, _) in enumerate(host.images) if i not in gone for j in held}
    dropped = {j for i in gone for j in host.images[i][0]} - kept
    return sum(host.layers[j] for j in dropped)


@given(host=hosts, free=st.integers(0, 100), threshold=st.integers(0, 200), slack=st.integers(0, 50))
def test_what_must_hold_on_any_host(host: Host, free: int, threshold: int, slack: int) -> None:
    target = threshold + slack
    verdict = host.decide(free, threshold, target, emergency=threshold, min_age=100)
    gone = {i for i, reason in enumerate(verdict) if reason.evicts}
    n = len(host.images)
    # Whatever blocks an image keeps it.
    assert all(verdict[i] == host.blocked[i] for i in host.blocked if i < n)
    assert all(host.images[i][1] <= 900 for i in gone)
    if free >= threshold:
        assert not gone
        return
    regular = {i for i in gone if verdict[i] is Reason.EVICT}
    together = {i for i in gone if verdict[i] is Reason.EVICT_TOGETHER}
    # These alone would free nothing.
    assert freed(host, regular | together) == freed(host, regular)
    # Protected images go only when the others do not suffice.
    if len(regular) < len(gone):
        assert free + freed(host, regular) < threshold
        assert not any(reason is Reason.TARGET_REACHED for reason in verdict)
    # An emergency is met if it can be met: else all that may go is gone, as far as that frees anything.
    may_go = {i for i in range(n) if i not in host.blocked and host.images[i][1] <= 900}
    assert free + freed(host, gone) >= min(threshold, free + freed(host, may_go))
    # Each one that goes frees something that stays freed: no image goes for nothing.
    for i in gone:
        assert not set(host.images[i][0]) <= {
            j for k, (held, _) in enumerate(host.images) if k not in gone for j in held
        }
    # No image that stays for reaching the target was used earlier than one that went before it.
    spared = [(host.images[i][1], i) for i, reason in enumerate(verdict) if reason is Reason.TARGET_REACHED]
    if spared:
        assert free + freed(host, regular) >= target
        assert max(((host.images[i][1], i) for i in regular), default=(-1.0, -1)) < min(spared)


@pytest.mark.parametrize("reason", list(Reason))
def test_reasons_say_whether_they_evict(reason: Reason) -> None:
    assert reason.evicts == reason.name.startswith("EVICT")
