"""How long a chain will yet take, by a clock that the test sets."""

from pathlib import Path

import pytest

from adafocus.machine import estimate
from adafocus.machine.estimate import Plan, PlannedJob

A, B, C, D = map(Path, "abcd")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(estimate, "time", clock)
    return clock


def chain(**seconds):
    """Two shards, then two jobs one after the other."""
    return Plan(
        {
            D: PlannedJob("end", frozenset({C}), seconds.get("d")),
            C: PlannedJob("train", frozenset({A, B}), seconds.get("c")),
            B: PlannedJob("frames", frozenset(), seconds.get("b")),
            A: PlannedJob("frames", frozenset({Path("made before")}), seconds.get("a")),
        }
    )


def test_nothing_is_told_where_nothing_is_known(clock):
    plan = chain(c=100.0)
    assert plan.seconds_left({}) is None
    plan.begin(A)
    assert plan.seconds_left({A: 5.0}) is None


def test_jobs_of_a_kind_tell_of_each_other(clock):
    plan = chain(c=100.0, d=10.0)
    plan.begin(A)
    clock.now = 20.0
    plan.end(A, done=True)
    assert plan.seconds_left({}) == 20 + 100 + 10
    plan.begin(B)
    clock.now = 25.0
    assert plan.seconds_left({B: None}) == 15 + 100 + 10
    assert plan.seconds_left({B: 2.0}) == 2 + 100 + 10


def test_what_ran_side_by_side_will_do_so_again(clock):
    plan = chain(a=30.0, b=30.0, c=100.0, d=10.0)
    assert plan.seconds_left({}) == 170
    plan.begin(A)
    plan.begin(B)
    assert plan.seconds_left({A: None, B: 50.0}) == 50 + 110
    clock.now = 40.0
    plan.end(B, done=False)
    # A takes longer than it was thought to, and B is done again beside it.
    assert plan.seconds_left({A: 0.0}) == 30 + 110


def test_shards_share_the_places_that_there_were(clock):
    plan = Plan({log: PlannedJob("frames", frozenset(), 30.0) for log in (A, B, C, D)})
    assert plan.seconds_left({}) == 120
    for log in (A, B):
        plan.begin(log)
    for log in (A, B):
        plan.end(log, done=True)
    assert plan.seconds_left({}) == 30


def test_a_chain_that_is_done_takes_no_time(clock):
    plan = Plan({A: PlannedJob("frames", frozenset(), None)})
    plan.begin(A)
    plan.end(A, done=True)
    assert plan.seconds_left({}) is None


def test_a_job_that_nothing_is_known_of_is_no_error(clock):
    plan = Plan({})
    plan.begin(A)
    assert plan.seconds_left({A: 5.0}) is None
    plan.end(A, done=True)
    assert plan.seconds_left({}) is None
