"""How fast a host pulls, by the jobs whose beginning its log knows."""

from __future__ import annotations

import pytest

from collector.queries.pulls import Pull, PullKind, pull_rate

S, MB = 10**9, 10**6


def pulled(second: float, job: int | None, megabytes: float = 100.0) -> Pull:
    return Pull(int(second * S), 1, "a:1", PullKind.FIRST, int(megabytes * MB), job)


def test_a_pull_begins_with_its_job_or_when_the_one_before_has_ended() -> None:
    begun = {job: 100 * job * S for job in range(10)}
    # Each job pulls 100 MB in 4 s, then 60 MB in 3 s.
    pulls = [one for job in range(10) for one in (pulled(100 * job + 4, job), pulled(100 * job + 7, job, 60.0))]
    assert pull_rate(pulls, begun) == pytest.approx(22.5 * MB)
    assert pull_rate(pulls[:9], begun) is None


def test_what_shows_nothing_of_the_rate_is_left_out() -> None:
    begun = {job: 100 * job * S for job in range(30)}
    pulls = [
        *(pulled(100 * job + 2, job) for job in range(10)),
        *(pulled(100 * job + 90, job, 1.0) for job in range(10, 20)),  # small: all preparation
        *(pulled(100 * job - 1, job) for job in range(20, 30)),  # the clock went back
        *(pulled(5000 + job, None) for job in range(9)),  # by hand
        *(pulled(5000 + job, 99) for job in range(9)),  # of jobs that nobody saw begin
    ]
    assert pull_rate(pulls, begun) == pytest.approx(50 * MB)
