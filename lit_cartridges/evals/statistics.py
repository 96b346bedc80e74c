"""Means and standard errors, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


@dataclass(frozen=True)
class Mean:
    """Mean and standard error of some values; of one value there is no error, and of nothing no mean."""

    mean: float | None
    standard_error: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Mean:
        """None among ``values`` counts as missing."""
        known = [value for value in values if value is not None]
        error = stdev(known) / sqrt(len(known)) if len(known) > 1 else None
        return cls(fmean(known) if known else None, error)


def clustered(
    values: Sequence[float],
    *,
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
) -> Mean:
    """Mean of the questions' values, and its standard error over clusters of them, each question its own by default.

    Samples of one question are averaged before. With weights it is the ratio of two sums, with the linearised error of that.
    Fewer than three clusters say next to nothing of how far others lie: they have no error.
    """
    if not values:
        return Mean(None, None)
    shares = [1.0] * len(values) if weights is None else weights
    total = sum(shares)
    mean = sum(share * value for share, value in zip(shares, values, strict=True)) / total
    apart: dict[object, float] = {}
    for place, (share, value) in enumerate(zip(shares, values, strict=True)):
        key: object = place if clusters is None else clusters[place]
        apart[key] = apart.get(key, 0.0) + share * (value - mean) / total
    count = len(apart)
    error = sqrt(count / (count - 1) * sum(x * x for x in apart.values())) if count > 2 else None
    return Mean(mean, error)


def share_error(share: Number, asked: Number) -> Number:
    """sqrt(p (1 - p) / n), the binomial standard error of a share of ``asked`` replies."""
    error: Number = (share * (1 - share) / asked) ** 0.5
    return error


def with_error(value: Mean | None, form: str) -> str:
    """Mean ± standard error, each by the format ``form``, as far as there are such."""
    if value is None or value.mean is None:
        return "–"
    unsigned = form.replace("+", "")
    error = "" if value.standard_error is None else f" ± {unsigned.format(value.standard_error)}"
    return form.format(value.mean) + error
