"""Least squares that stay near a start: for values, and for weights that may not be negative.

Both minimise ‖A x − b‖² + λ ‖x − start‖², where λ is ``ridge`` times the mean of the squared column norms of A. The
ridge makes the solution unique where there are fewer equations than unknowns, and pulls it to what is known already.
Solved by the normal equations in the dtype given, which should be fp64.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ridge_least_squares(matrix: Tensor, target: Tensor, start: Tensor, *, ridge: float) -> Tensor:
    """Solution [unknowns, columns] for ``matrix`` [equations, unknowns], ``target`` [equations, columns]."""
    gram = _with_ridge(matrix.T @ matrix, ridge)[0]
    step = torch.linalg.solve(gram, matrix.T @ (target - matrix @ start))
    return start + step


def nonnegative_least_squares(gram: Tensor, moment: Tensor, *, ridge: float, start: float = 1.0) -> Tensor:
    """The minimiser [unknowns] over x ≥ 0, from ``gram`` = AᵀA and ``moment`` = Aᵀb.

    By block principal pivoting (Kim and Park 2011, doi 10.1137/110821172): every unknown that is negative while free, or
    whose gradient is negative while held at zero, changes sides, all at once; if their number has not shrunk for three
    rounds, only the last of them changes, which cannot go in circles. The result is exact, not an iterate.
    """
    gram, weight = _with_ridge(gram, ridge)
    moment = moment + weight * start
    free = torch.ones_like(moment, dtype=torch.bool)
    fewest, patience = len(moment) + 1, 3
    rounding = torch.finfo(moment.dtype).eps * 100
    slack = rounding * float(moment.abs().max())
    while True:
        x, gradient = torch.zeros_like(moment), -moment
        places = free.nonzero()[:, 0]
        if len(places):
            x[places] = torch.linalg.solve(gram[places][:, places], moment[places])
            gradient = gram @ x - moment
        wrong = (free & (x < -rounding * x.abs().max())) | (~free & (gradient < -slack))
        count = int(wrong.sum())
        if count == 0:
            return x.clamp(min=0)
        if count < fewest:
            fewest, patience = count, 3
        elif patience > 0:
            patience -= 1
        else:
            last = wrong.nonzero()[-1]
            wrong = torch.zeros_like(wrong)
            wrong[last] = True
        free = free ^ wrong


def _with_ridge(gram: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The Gram matrix with λ on its diagonal, and λ; a matrix of zeros gets 1."""
    weight = ridge * gram.diagonal().mean()
    weight = torch.where(weight > 0, weight, torch.ones_like(weight))
    return gram + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device), weight
