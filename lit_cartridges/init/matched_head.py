"""One key-value head of one window, matched by fewer positions (arXiv 2602.16284): select keys, fit weights, fit values.

Everything is relative to a query's attention mass over its whole window, which is therefore 1: the probability a_j of a
key is its share, and the weights w of the keys S that stay shall give Σ_{j∈S} w_j a_j ≈ 1 for every query.

Shapes: n queries · L tokens of the window · s keys that stay · D head dim; fp64
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cartridges.init.least_squares import nonnegative_least_squares, ridge_least_squares

# A key of weight 0 would need a bias of minus infinity, from which training could not bring it back.
_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadProblem:
    """What is to be matched.

    Attributes:
        attention: [n, L], probabilities over the window; rows of 0 where a sliding window hides all of it.
        shares: [n, L], the same, but for keys that a sliding window hides what they would weigh against the others: at
            its new place such a key may come into sight.
        values: [L, D].
        opening_tokens: leading positions, which stay as they are.
        opening_seen: [n, opening_tokens], 1 where a query still sees an opening position at its place in the cartridge.
    """

    attention: Tensor
    shares: Tensor
    values: Tensor
    opening_tokens: int
    opening_seen: Tensor

    @property
    def opening(self) -> Tensor:
        """Shares [n, opening_tokens] of the opening as the cartridge's reader sees it."""
        return self.shares[:, : self.opening_tokens] * self.opening_seen

    @property
    def missing_mass(self) -> Tensor:
        """[n]: what the keys that stay shall weigh together."""
        return self.attention.sum(1) - self.opening.sum(1)

    def by_attention(self, count: int) -> Tensor:
        """Positions [count] behind the opening with the highest root mean square of attention, in order."""
        received = self.attention[:, self.opening_tokens :].square().mean(0)
        best = received.sort(descending=True, stable=True).indices[:count]
        return best.sort().values + self.opening_tokens

    def by_matching_pursuit(self, count: int, *, keys_per_step: int, ridge: float) -> Tensor:
        """Positions [count] behind the opening by orthogonal matching pursuit on the attention mass, in order.

        Each step takes the keys whose probabilities correlate most with the mass still missing, and fits the weights of
        all taken so far anew.
        """
        columns = self.attention[:, self.opening_tokens :]
        mass = columns.sum(1)
        gram = columns.new_zeros(count, count)
        moments, residual = columns.T @ mass, mass
        taken = torch.zeros(0, dtype=torch.long, device=columns.device)
        while (done := len(taken)) < count:
            score = columns.T @ residual
            score[taken] = -torch.inf
            new = score.sort(descending=True, stable=True).indices[: min(keys_per_step, count - done)]
            taken = torch.cat([taken, new])
            held = columns[:, taken]
            rows = held[:, done:].T @ held
            gram[done : len(taken), : len(taken)], gram[: len(taken), done : len(taken)] = rows, rows.T
            part = gram[: len(taken), : len(taken)]
            residual = mass - held @ nonnegative_least_squares(part, moments[taken], ridge=ridge)
        return taken.sort().values + self.opening_tokens

    def weights(self, chosen: Tensor, seen: Tensor, *, ridge: float) -> Tensor:
        """Weights [s] ≥ 1e-6 of the ``chosen`` keys; ``seen`` [n, s] is 1 where a query sees their new places."""
        matrix = self.shares[:, chosen] * seen
        # An opening that comes into sight at its new place can exceed the mass: nothing is missing then.
        moment = matrix.T @ self.missing_mass.clamp(min=0)
        return nonnegative_least_squares(matrix.T @ matrix, moment, ridge=ridge).clamp(min=_LEAST_WEIGHT)

    def fitted_values(self, chosen: Tensor, seen: Tensor, weights: Tensor, *, ridge: float) -> Tensor:
        """Values [s, D] of the chosen keys, by least squares on the attention's output, near their own values."""
        # Queries that saw nothing of the window have no output to be matched.
        saw_some = (self.attention.sum(1) > 0)[:, None]
        mass = self.shares[:, chosen] * seen * weights * saw_some
        total = (mass.sum(1) + self.opening.sum(1)).clamp(min=torch.finfo(mass.dtype).tiny)[:, None]
        opening = self.opening * saw_some / total
        target = self.attention @ self.values - opening @ self.values[: self.opening_tokens]
        return ridge_least_squares(mass / total, target, self.values[chosen], ridge=ridge)
