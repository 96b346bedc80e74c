"""The time that a run will still take, from news and batches whose seconds are known."""

from __future__ import annotations

import pytest

from lit_cartridges.callbacks.time_left import TimeLeft
from lit_cartridges.data.stream import RoundNews


def news(
    groups: int, *, made: int | None = None, seconds: float | None = None, batches: float = 8.0
) -> RoundNews:
    made = 4 * groups if made is None else made
    return RoundNews(
        groups=groups,
        of=4,
        writes=True,
        made=made,
        seconds=10.0 * groups if seconds is None else seconds,
        batches=batches if groups else 0.0,
    )


def after_one_round(*, threaded: bool = False, batches: int = 2) -> TimeLeft:
    """40 s for a round of 8 batches, 3 s for each batch."""
    left = TimeLeft(threaded=threaded)
    for groups in range(5):
        left.round(news(groups))
    for _ in range(batches):
        left.batch(3.0)
    return left


def test_nothing_is_said_before_both_are_known():
    left = TimeLeft(threaded=False)
    assert left.seconds(10) is None and left.round_seconds() is None
    left.round(news(0))
    assert left.round_seconds() is None
    left.round(news(1))
    assert left.seconds(10) is None and left.round_seconds() == 30
    left.round(news(3))
    assert left.round_seconds() == 10


def test_training_and_the_rounds_that_it_still_needs():
    left = after_one_round()
    assert left.seconds(6) == 6 * 3  # the round there is suffices
    assert left.seconds(7) == 7 * 3 + 40
    assert left.seconds(6 + 8) == 14 * 3 + 40
    assert left.seconds(6 + 9) == 15 * 3 + 80


def test_a_round_in_the_making_counts_for_what_is_left_of_it():
    left = after_one_round(batches=8)
    left.round(news(1))
    assert left.seconds(8) == 8 * 3 + 30
    assert left.seconds(9) == 9 * 3 + 30 + 40


def test_a_thread_makes_while_the_run_trains():
    left = after_one_round(threaded=True)
    assert left.seconds(7) == 40
    assert left.seconds(6 + 8 + 20) == 4 * 40
    fast = after_one_round(threaded=True)
    fast.training_s *= 100
    assert fast.seconds(7) == 7 * 300


def test_rounds_from_a_recording_take_no_time_that_is_known():
    left = TimeLeft(threaded=False)
    for groups in range(5):
        left.round(news(groups, made=0, seconds=0.001))
    left.batch(3.0)
    assert left.seconds(100) == 300
    left.round(news(2, seconds=20.0))
    assert left.seconds(7) == pytest.approx(7 * 3 + 20)
