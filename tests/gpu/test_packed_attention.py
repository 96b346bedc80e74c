"""One layer's attention of packed sequences behind a prefix, whose every path a GPU takes, against fp64 on the CPU."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.attention import Reading
from tests.attention.test_cuda_flash import read
from tests.gpu.agreement import CARD, HALVES, TOLERANCE, require_agreement

PREFIX_TOKENS, WIDTH = 150, 64


@pytest.mark.parametrize("device", ["cpu", CARD])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("kind", ["no prefix", "prefix", "biased", "softcap"])
@pytest.mark.parametrize("window", [None, 1, 40, 200, 1000])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)], ids=str)
@pytest.mark.parametrize("lengths", [(1, 1), (300,), (7, 1, 130, 300, 64)], ids=str)
def test_outputs_and_gradients(lengths, heads, window, kind, dtype, device):
    """Sequences longer and shorter than the kernels' tiles of 64 and 128."""
    generator, tokens = torch.Generator().manual_seed(1), sum(lengths)
    shapes = [(1, heads[0], tokens, WIDTH), *[(1, heads[1], tokens, WIDTH)] * 2]
    shapes += [] if kind == "no prefix" else [(heads[1], PREFIX_TOKENS, WIDTH)] * 2
    shapes += [(heads[1], PREFIX_TOKENS)] if kind == "biased" else []
    drawn = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    softcap = 1.5 if kind == "softcap" else None
    ours, exact = (
        read(Reading(lengths=lengths), [x.to(where, wide).requires_grad_() for x in drawn], window, softcap)
        for where, wide in ((device, dtype), ("cpu", torch.float64))
    )
    whole = exact[0].norm()
    for mine, theirs in zip(ours, exact, strict=True):
        if theirs.norm() > 1e-6 * whole:
            require_agreement(mine, theirs, dtype)
        else:  # a query that sees one key has no gradient but that of rounding
            assert mine.double().cpu().norm() < TOLERANCE[dtype] * whole
