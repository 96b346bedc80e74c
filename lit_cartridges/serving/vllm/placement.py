"""Where a cartridge's positions lie in vLLM's paged cache, and which heads one of several processes holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_NULL_BLOCK = 0  # stands where a sliding window has passed; nobody reads it


def slots(block_ids: Sequence[int], *, block_size: int, start: int, stop: int) -> tuple[int, Tensor]:
    """Where the positions from ``start`` to ``stop`` are to be written.

    Args:
        block_ids: the request's blocks in one group of layers, from its first position on.

    Returns:
        The first position that has a place, and the places [stop - first] (int64) of all from there on. The layers of a
        sliding window have none for what the window has passed.

    Raises:
        ValueError: there are fewer blocks, or a position behind the first has none.
    """
    positions = torch.arange(start, stop)
    if stop > len(block_ids) * block_size:
        raise ValueError(f"{len(block_ids)} blocks of {block_size} hold no position {stop - 1}")
    blocks = torch.tensor(list(block_ids), dtype=torch.int64)[positions // block_size]
    held = blocks != _NULL_BLOCK
    passed = int((~held).sum())
    if not bool(held[passed:].all()):
        raise ValueError(f"a position between {start} and {stop} has no block, behind one that has")
    return start + passed, (blocks * block_size + positions % block_size)[passed:]


def heads_of(rank: int, *, processes: int, heads: int) -> slice:
    """Key-value heads of one process under tensor parallelism; with more processes than heads, several hold the same one."""
    first = rank * heads // processes
    return slice(first, first + max(1, heads // processes))
