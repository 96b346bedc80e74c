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
