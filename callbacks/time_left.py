"""How long a run will still take, from what it has taken so far: seconds per batch trained, per group of conversations made."""

from __future__ import annotations

import math
from threading import Lock

from lit_cartridges.data.stream import RoundNews


class TimeLeft:
    """Counts rounds and batches of one process; a thread may tell of rounds while another tells of batches.

    Args:
        threaded: conversations are made while the run trains, so the longer of the two counts.
    """

    def __init__(self, *, threaded: bool) -> None:
        self.threaded = threaded
        self.batches_used, self.training_s = 0, 0.0
        self._batches, self._groups_made, self._making_s = 0.0, 0, 0.0
        self._round: RoundNews | None = None
        self._lock = Lock()

    def batch(self, seconds: float) -> None:
        """One more batch was trained."""
        with self._lock:
            self.batches_used += 1
            self.training_s += seconds

    def round(self, news: RoundNews) -> None:
        """How the round in the making goes."""
        with self._lock:
            self._round = news
            if news.groups == news.of:
                self._batches += news.batches
                if news.made:
                    self._groups_made += news.groups
                    self._making_s += news.seconds

    @property
    def batch_s(self) -> float | None:
        """Seconds per batch, or None before the first."""
        return self.training_s / self.batches_used if self.batches_used else None

    def seconds(self, batches: int) -> float | None:
        """Until ``batches`` more are trained, and the conversations for them made; None where nothing is known yet."""
        with self._lock:
            training = None if self.batch_s is None else batches * self.batch_s
            making = self._making(batches)
        if training is None or making is None:
            return training if making is None else None if self.batch_s is None else making
        return max(training, making) if self.threaded else training + making

    def round_seconds(self) -> float | None:
        """Until the round in the making is done."""
        news = self._round
        if news is None or not news.made:
            return None
        return (news.of - news.groups) * news.seconds / news.groups

    def _making(self, batches: int) -> float | None:
        news, group_s = self._round, self._group_s()
        if news is None or group_s is None or not news.batches:
            return None
        going = 0 if news.groups == news.of else news.of - news.groups
        there = self._batches - self.batches_used + (news.batches if going else 0.0)
        rounds = math.ceil(max(0.0, batches - there) / news.batches)
        return (going + rounds * news.of) * group_s

    def _group_s(self) -> float | None:
        """Seconds that a group takes to make; None while all came from a recording."""
        groups, seconds = self._groups_made, self._making_s
        news = self._round
        if news is not None and news.made and news.groups < news.of:
            groups, seconds = groups + news.groups, seconds + news.seconds
        return seconds / groups if groups else None
