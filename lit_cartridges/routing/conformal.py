"""The threshold of split conformal prediction: at most a share ``alpha`` of what is like the negatives lies above it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def conformal_threshold(negatives: Sequence[float], alpha: float) -> float:
    """The ⌈(N + 1)(1 − alpha)⌉-th smallest of N scores.

    A new score that is exchangeable with them is above it with probability alpha at most, whatever their distribution.

    Raises:
        ValueError: so few scores that no threshold among them has that property.
    """
    place = len(negatives) + 1 - math.floor((len(negatives) + 1) * alpha + 1e-9)
    if place > len(negatives):
        needed = math.ceil(1 / alpha - 1e-9) - 1
        raise ValueError(f"a threshold needs at least {needed} negatives, and there are {len(negatives)}")
    return float(sorted(negatives)[place - 1])
