"""Which server gets the next request."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from lit_cartridges.teachers import server_pool
from lit_cartridges.teachers.server_pool import ServerPool


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(server_pool.time, "monotonic", lambda: now[0])
    return now


def borrowed(pool, count, avoid=None):
    """The servers of so many requests that are all in flight."""
    with ExitStack() as stack:
        return [stack.enter_context(pool.borrow(avoid)).url for _ in range(count)]


def test_least_in_flight(clock):
    pool = ServerPool(["a", "b", "c"], down_s=10.0)
    assert borrowed(pool, 7) == ["a", "b", "c", "a", "b", "c", "a"]
    assert [server.in_flight for server in pool.servers] == [0, 0, 0]


def test_another_one_than_that_which_failed_if_there_is_one(clock):
    pool = ServerPool(["a", "b"], down_s=10.0)
    a, b = pool.servers
    assert borrowed(pool, 3, avoid=a) == ["b", "b", "b"]
    pool.leave_out(b)
    assert borrowed(pool, 2, avoid=a) == ["a", "a"]


def test_a_server_that_fails_is_left_out_longer_each_time(clock):
    pool = ServerPool(["a", "b"], down_s=10.0)
    a, b = pool.servers
    for expected_s in (10, 20, 40, 80, 160, 300, 300):
        for _ in range(5):
            pool.leave_out(a)  # requests that fail together count once
        assert borrowed(pool, 2) == ["b", "b"]
        clock[0] += expected_s - 0.1
        assert pool.up() == [b]
        clock[0] += 0.2
        assert a in pool.up()
    assert pool.works(a) and not pool.works(a)
    pool.leave_out(a)
    clock[0] += 10.1
    assert a in pool.up()


def test_a_dead_server_may_fail_without_end(clock):
    pool = ServerPool(["a"], down_s=10.0)
    for _ in range(2000):
        pool.leave_out(pool.servers[0])
        clock[0] += 301
    assert pool.servers[0].failures == 2000


def test_a_server_that_comes_back_gets_one_request_first(clock):
    pool = ServerPool(["a", "b"], down_s=10.0)
    pool.leave_out(pool.servers[0])
    clock[0] += 11
    assert borrowed(pool, 4) == ["a", "b", "b", "b"]
    pool.works(pool.servers[0])
    assert borrowed(pool, 4) == ["a", "b", "a", "b"]


def test_when_all_fail_the_one_that_is_back_soonest(clock):
    pool = ServerPool(["a", "b"], down_s=10.0)
    pool.leave_out(pool.servers[0])
    clock[0] += 5
    pool.leave_out(pool.servers[1])
    assert borrowed(pool, 2) == ["a", "a"]


def test_a_server_that_is_full_is_left_alone_as_long_as_it_says(clock):
    pool = ServerPool(["a", "b"], down_s=10.0)
    pool.pause(pool.servers[0], 3.0)
    assert borrowed(pool, 2) == ["b", "b"]
    clock[0] += 3.1
    assert borrowed(pool, 2) == ["a", "b"]


def test_a_pause_has_a_bound(clock):
    """Retry-After may be a date, read with a clock that is hours off."""
    pool = ServerPool(["a", "b"], down_s=10.0)
    a, b = pool.servers
    pool.pause(a, 36_000.0)
    assert pool.up() == [b]
    clock[0] += 300.1
    assert a in pool.up()
