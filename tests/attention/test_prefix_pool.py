"""Prefixes that come and go keep their keys and values, and places that are free again are taken."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lit_cartridges.attention.prefix_pool import PrefixPool


def test_what_is_held_stays_and_room_is_used_again():
    draw, pool, held = random.Random(0), PrefixPool[int](), {}
    for name in range(200):
        if len(held) > draw.randrange(1, 5):
            gone = draw.choice(list(held))
            del held[gone]
            pool.drop(gone)
        tokens = draw.randrange(1, 40)
        # Layers may differ in heads and in width.
        sides = [[torch.randn(heads, tokens, 4 * heads) for heads in (1, 3)] for _ in range(2)]
        pool.put(name, *sides)
        held[name] = sides
        taken = sorted((pool.span(at).start, pool.span(at).stop) for at in held)
        assert all(stop <= start for (_, stop), (start, _) in zip(taken, taken[1:], strict=False))
        for at, expected in held.items():
            for mine, given in zip(pool.views(at), expected, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(mine, given, strict=True))
    assert pool.tokens <= 2 * 6 * 40 and pool.version < 8


@pytest.mark.parametrize("made", range(4))
def test_growth_that_ended_early_is_made_up_for(made):
    """By a lack of memory in one layer, while the pool is made and while it grows."""

    class Full(TorchDispatchMode):
        left = made

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.new_empty.default:
                if self.left == 0:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                self.left -= 1
            return func(*args, **(kwargs or {}))

    pool, held = PrefixPool[int](), {}
    for name, tokens in enumerate((5, 20)):
        sides = [[torch.randn(2, tokens, 4) for _ in range(2)] for _ in range(2)]
        with pytest.raises(torch.OutOfMemoryError), Full():
            pool.put(name, *sides)
        pool.put(name, *sides)
        held[name] = sides
        for at, expected in held.items():
            for mine, given in zip(pool.views(at), expected, strict=True):
                assert all(torch.equal(x, y) for x, y in zip(mine, given, strict=True))
