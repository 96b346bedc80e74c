"""The two solvers of AttentionMatching against plain ones."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from lit_cartridges.init.least_squares import nonnegative_least_squares, ridge_least_squares

EXACT = {"atol": 1e-9, "rtol": 1e-7}


def drawn(equations, unknowns, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (equations, unknowns), (equations, columns), (unknowns, columns)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def stacked(matrix, target, start, ridge):
    """The same problem as one without a ridge: rows of √λ for every unknown below."""
    root = (ridge * matrix.square().sum(0).mean()).sqrt()
    below = torch.eye(matrix.shape[1], dtype=matrix.dtype) * root
    return torch.cat([matrix, below]), torch.cat([target, start * root])


@pytest.mark.parametrize("shape", [(30, 8), (8, 8), (5, 8)], ids=str)
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
def test_the_ridge_solution_is_that_of_a_plain_solver(shape, ridge):
    matrix, target, start = drawn(*shape, columns=3)
    ours = ridge_least_squares(matrix, target, start, ridge=ridge)
    theirs = torch.linalg.lstsq(*stacked(matrix, target, start, ridge)).solution
    torch.testing.assert_close(ours, theirs, **EXACT)


def test_a_vanishing_ridge_is_plain_least_squares():
    matrix, target, start = drawn(30, 8, 3)
    ours = ridge_least_squares(matrix, target, start, ridge=1e-13)
    torch.testing.assert_close(ours, torch.linalg.lstsq(matrix, target).solution, **EXACT)


def test_a_start_that_solves_the_problem_is_kept():
    matrix, _, start = drawn(5, 8, 3)
    torch.testing.assert_close(ridge_least_squares(matrix, matrix @ start, start, ridge=1e-3), start, **EXACT)


def by_trying_all_supports(matrix, target):
    """The least error over every set of unknowns that may be above zero, each solved plainly."""
    best, least = torch.zeros(matrix.shape[1], dtype=matrix.dtype), float(target.square().sum())
    for support in product([False, True], repeat=matrix.shape[1]):
        places = torch.tensor(support).nonzero()[:, 0]
        if not len(places):
            continue
        part = torch.linalg.lstsq(matrix[:, places], target[:, None]).solution[:, 0]
        error = float((matrix[:, places] @ part - target).square().sum())
        if (part >= 0).all() and error < least:
            best, least = torch.zeros_like(best), error
            best[places] = part
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("equations", [12, 5])
def test_nonnegative_weights_are_the_best_of_all_supports(equations, seed):
    matrix, target, _ = drawn(equations, 7, 1, seed)
    ridge, ones = 1e-2, torch.ones(7, 1, dtype=torch.float64)
    rows, right = stacked(matrix, target, ones, ridge)
    expected = by_trying_all_supports(rows, right[:, 0])
    ours = nonnegative_least_squares(matrix.T @ matrix, matrix.T @ target[:, 0], ridge=ridge)
    torch.testing.assert_close(ours, expected, **EXACT)
    assert 0 < int((ours == 0).sum()) < 7 or seed, "the first problem has weights at the bound and above it"


def test_many_strongly_dependent_weights_meet_the_conditions_of_an_optimum():
    """Attention probabilities are non-negative and alike, the hard case; the conditions (Karush, Kuhn, Tucker) decide."""
    generator = torch.Generator().manual_seed(3)
    matrix = (torch.randn(400, 120, generator=generator, dtype=torch.float64) * 0.3).softmax(1)
    target = torch.rand(400, generator=generator, dtype=torch.float64)
    gram, moment, ridge = matrix.T @ matrix, matrix.T @ target, 1e-3
    x = nonnegative_least_squares(gram, moment, ridge=ridge)
    gradient = gram @ x - moment + ridge * gram.diagonal().mean() * (x - 1)
    assert (x >= 0).all()
    assert gradient.min() > -1e-10
    assert (gradient * x).abs().max() < 1e-10


def test_a_problem_without_equations_keeps_its_start():
    zeros = torch.zeros(3, 3, dtype=torch.float64)
    assert nonnegative_least_squares(zeros, zeros[0], ridge=1e-3).tolist() == [1, 1, 1]
