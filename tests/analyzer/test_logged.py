"""Uses come out of the log in one order, whoever puts them into it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.native.loader import load
from analyzer.trace import uses as logged
from analyzer.trace.uses import NEVER, OPEN, SPAN_BITS, LoggedUses, in_order, survey
from collector.model.traits import Use

IMAGES = 4
ORIGIN = 3 << SPAN_BITS
# Few times, so that many uses begin at the same one, and some lie before the origin.
times = st.one_of(st.integers(-3, 9), st.integers(-(2**52), 2**53)).map(lambda after: ORIGIN + after)
entries = st.lists(
    st.tuples(times, st.one_of(times, st.just(OPEN)), st.integers(0, IMAGES - 1), st.sampled_from(list(Use)))
)


def uses(rows: list[tuple[int, int, int, Use]]) -> LoggedUses:
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    kinds = (np.int64, np.int64, np.int32, np.uint8)
    return LoggedUses(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


@pytest.mark.skipif(load() is None, reason="the kernel cannot be compiled here")
@given(entries, entries, st.permutations(range(IMAGES)), st.randoms())
def test_compiled_and_plain_agree_whatever_the_order_of_the_rows(
    many: list[tuple[int, int, int, Use]],
    more: list[tuple[int, int, int, Use]],
    number: list[int],
    source: object,
) -> None:
    numbers = np.array(number, dtype=np.int64)
    plain = logged._by_numpy(uses(many), uses(more), ORIGIN, numbers)
    shuffled = [*many, *more]
    source.shuffle(shuffled)  # type: ignore[attr-defined]
    compiled = in_order(uses(shuffled[: len(many)]), uses(shuffled[len(many) :]), ORIGIN, numbers)
    for name, column in plain.items():
        assert compiled[name].dtype == column.dtype
        np.testing.assert_array_equal(compiled[name], column)


def test_two_threads_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    count = 5_000
    began = ORIGIN + rng.integers(-20, 300, count)
    many = LoggedUses(
        began,
        began + rng.integers(0, 5, count),
        rng.integers(0, IMAGES, count).astype(np.int32),
        rng.integers(1, 6, count).astype(np.uint8),
    )
    more = uses([(ORIGIN + 40, OPEN, 1, Use.CONTAINER), (ORIGIN + 290, ORIGIN, 0, Use.FOUND)])
    alone = in_order(many, more, ORIGIN, np.arange(IMAGES))
    monkeypatch.setattr(logged, "WORTH_A_THREAD", 10)
    shared = in_order(many, more, ORIGIN, np.arange(IMAGES))
    for name, column in alone.items():
        np.testing.assert_array_equal(shared[name], column)


@given(entries)
def test_a_survey_knows_first_uses_and_when_containers_began(rows: list[tuple[int, int, int, Use]]) -> None:
    seen = survey(uses(rows), IMAGES)
    for image in range(IMAGES):
        assert seen.earliest[image] == min((time for time, _, i, _ in rows if i == image), default=NEVER)
    began: dict[int, tuple[int, int]] = {}
    for time, _, _, kind in rows:
        if kind is Use.CONTAINER:
            count, beginnings = began.get(time >> SPAN_BITS, (0, 0))
            began[time >> SPAN_BITS] = (count + 1, beginnings ^ time)
    assert seen.began == began


def test_a_survey_without_the_kernel_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(ORIGIN + k * 2**49, OPEN, k % IMAGES, Use.CONTAINER if k % 3 else Use.PULL) for k in range(40)]
    compiled = survey(uses(rows), IMAGES)
    monkeypatch.setattr(logged, "load", lambda: None)
    plain = survey(uses(rows), IMAGES)
    np.testing.assert_array_equal(plain.earliest, compiled.earliest)
    assert plain.began == compiled.began
