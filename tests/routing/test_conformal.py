"""The threshold lets through at most a share alpha of what is like the negatives, whatever that is."""

from __future__ import annotations

from math import exp, lgamma, log

import numpy as np
import pytest

from lit_cartridges.routing.router import conformal_threshold


def binomial_tail(successes: int, tries: int, p: float) -> float:
    """The probability of so many successes or more."""
    return sum(
        exp(lgamma(tries + 1) - lgamma(k + 1) - lgamma(tries - k + 1) + k * log(p) + (tries - k) * log(1 - p))
        for k in range(successes, tries + 1)
    )


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.37])
@pytest.mark.parametrize("draw", ["normal", "heavy", "few values"])
def test_of_exchangeable_negatives_at_most_alpha_lies_above_it(alpha, draw):
    rng, tries, size = np.random.default_rng(0), 4000, 40
    scores = {
        "normal": lambda: rng.normal(size=(tries, size + 1)),
        "heavy": lambda: rng.standard_cauchy((tries, size + 1)),
        "few values": lambda: rng.integers(0, 4, (tries, size + 1)).astype(float),
    }[draw]()
    above = sum(row[-1] > conformal_threshold(row[:-1].tolist(), alpha) for row in scores)
    assert binomial_tail(above, tries, alpha) > 1e-4
    if draw != "few values":  # without ties it is no lower than it has to be, either
        tight = int((size + 1) * alpha) / (size + 1)
        assert binomial_tail(tries - above, tries, 1 - tight) > 1e-4


def test_it_is_the_score_of_that_place():
    scores = [3.0, 1.0, 2.0, *range(10, 26)]
    assert conformal_threshold(scores, 0.05) == 25 and len(scores) == 19  # ⌈20 · 0.95⌉ = 19
    assert conformal_threshold(scores, 0.1) == 24
    assert conformal_threshold(scores, 0.95) == 1


def test_too_few_are_refused():
    with pytest.raises(ValueError, match=r"needs at least 19 negatives, and there are 18"):
        conformal_threshold([0.0] * 18, 0.05)
