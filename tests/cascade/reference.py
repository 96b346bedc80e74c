"""The cascade's rule written out token by token, in plain Python, for the tests to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Score = Callable[[int], float]


@dataclass
class Sequential:
    """One row and one token set. Tokens are their 0-based indices; sub-caches are lists from oldest to newest."""

    sinks_wanted: int
    cascades: int
    window: int
    eager_fill: bool = True
    seen: int = 0
    sinks: list[int] = field(default_factory=list)
    caches: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.caches = [[] for _ in range(self.cascades)]

    def insert(self, score: Score) -> None:
        """Insert the next token. ``score`` gives a token's present score."""
        token, self.seen = self.seen, self.seen + 1
        if token < self.sinks_wanted:
            self.sinks.append(token)
            return
        step, item = token - self.sinks_wanted, token
        for level, cache in enumerate(self.caches):
            filling = self.eager_fill and step <= self.cascades * self.window
            if filling or step % 2**level == 0:
                cache.append(item)
                if len(cache) <= self.window:
                    return
                item = cache.pop(0)
            elif not cache:
                cache.append(item)
                return
            else:
                if score(item) >= score(cache[-1]):
                    cache[-1] = item
                return

    def held(self) -> list[int]:
        """The tokens in the order of their positions."""
        return self.sinks + [token for cache in reversed(self.caches) for token in cache]


def oracle(scores: Sequence[float], cascades: int, window: int, sinks: int) -> list[list[int]]:
    """Sub-caches after all of ``scores``, in closed form; for static scores, no eager fill, 2^(C-1) dividing W."""
    n, caches = len(scores) - 1 - sinks, []
    for level in range(cascades):
        size = 2**level
        delay = window * (size - 1)
        winners = []
        for block in range(max(0, (n - delay) // size - window + 1), (n - delay) // size + 1):
            first, last = block * size, block * size + size
            if level > 0 and n < first + delay + size // 2:
                last = first + size // 2
            winners.append(max(range(first, last), key=lambda j: (scores[j + sinks], j)) + sinks)
        caches.append(winners)
    return caches
