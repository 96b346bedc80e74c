"""The two Triton kernels of `triton_attention`: attention to [held | chunk], and the sums of every key's probabilities.

Probabilities stay on the chip. The first kernel is the forward of flash attention (arXiv 2205.14135, 2307.08691): tiles of
keys pass a tile of queries, with a running softmax. The second turns it round: tiles of queries pass a tile of keys, and what
the first has found as their log-sum-exp gives back the probabilities.

Legend: q queries, n held columns, m = n + q keys, D and V the widths of keys and values. Key j < n is held and may be seen by
all queries, key n + b belongs to query b and may be seen from query b on. ``places`` [R, m], if given, are the keys'
positions, and -1 for a key that nobody sees. Logits and sums are fp32, in base 2; what is stored is in base e.
Products of 16-bit operands are exact in fp32, so that logits are rounded nowhere (law 8).
"""

from __future__ import annotations

import triton
import triton.language as tl

# Finite, like the plain path's: a query that sees nothing then gives something finite, which nobody reads.
HIDDEN = tl.constexpr(-1e30)
LOG2_E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _product(left, right):
    """fp32 matrix product, its operands as they are: no tf32."""
    if INTERPRETED:  # it holds bf16 as whole numbers, and would multiply those
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _logits(query, key, scale, softcap):
    """Base-2 logits [queries, keys] of ``query`` [queries, D] and ``key`` [D, keys], before anything is hidden."""
    logits = _product(query, key) * scale
    if softcap is not None:  # softcap · tanh(logits / softcap)
        logits = softcap * (1 - 2 / (tl.exp2(logits * (2 * LOG2_E / softcap)) + 1))
    return logits * LOG2_E


@triton.jit
def _hide(logits, queries, columns, n, m, positions, places, window):
    """``logits`` with what query ``queries`` [queries] may not see of ``columns`` [keys] hidden.

    ``positions`` and ``places`` point to the row's.
    """
    seen = columns[None, :] - n <= queries[:, None]
    if places is not None:
        place = tl.load(places + columns, mask=columns < m, other=-1)
        seen = seen & (place >= 0)[None, :]
        if window is not None:
            position = tl.load(positions + queries, mask=queries < m - n, other=0)
            seen = seen & (position[:, None] - place[None, :] < window)
    return tl.where(seen, logits, HIDDEN)


@triton.jit
def attention_kernel(
    query,
    key,
    value,
    out,
    lse,
    sinks,
    positions,
    places,
    q_row,
    q_head,
    q_step,
    k_row,
    k_head,
    k_step,
    v_row,
    v_head,
    v_step,
    heads,
    group,
    n,
    q,
    keys_per_split,
    window,
    scale,
    softcap,
    D: tl.constexpr,
    V: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``out`` [splits, R, heads, q, V] and ``lse`` [splits, R, heads, q] over every split of the keys.

    Grid: tiles of queries, rows times heads, splits. A split has ``keys_per_split`` keys, a multiple of BLOCK_K. A head's
    sink, of ``sinks`` [heads], counts in the first split.
    """
    tile, both, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    m = n + q
    if places is not None:
        places += row * m
        positions += row * q
    queries = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    wide, deep = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)
    rows = tl.load(
        query + row * q_row + head * q_head + queries[:, None] * q_step + wide[None, :],
        mask=(queries < q)[:, None] & (wide < D)[None, :],
        other=0.0,
    )
    mixed, total = tl.zeros([BLOCK_Q, BLOCK_V], tl.float32), tl.zeros([BLOCK_Q], tl.float32)
    highest = tl.full([BLOCK_Q], HIDDEN, tl.float32)
    if sinks is not None:
        if split == 0:
            highest = tl.zeros([BLOCK_Q], tl.float32) + tl.load(sinks + head).to(tl.float32) * LOG2_E
            total += 1.0

    begin = split * keys_per_split
    end = tl.minimum(begin + keys_per_split, tl.minimum(m, n + (tile + 1) * BLOCK_Q))
    if (
        window is not None
    ):  # held key j is at position j, and the tile's first query at the lowest of its positions
        nearest = tl.load(positions + tile * BLOCK_Q).to(tl.int32) - window + 1
        begin = tl.maximum(begin, tl.minimum(tl.maximum(nearest, 0), n) // BLOCK_K * BLOCK_K)
    # All queries see all of the held keys, unless some are hidden: these need no mask.
    clear = begin
    if places is None:
        clear = tl.maximum(begin, tl.minimum(end, n // BLOCK_K * BLOCK_K))
    keys, values = key + row * k_row + head // group * k_head, value + row * v_row + head // group * v_head
    for CHECKED in tl.static_range(2):
        for start in range(clear if CHECKED else begin, end if CHECKED else clear, BLOCK_K):
            columns = start + tl.arange(0, BLOCK_K)
            there = columns < m
            tile_keys = tl.load(
                keys + columns[None, :] * k_step + wide[:, None],
                mask=there[None, :] & (wide < D)[:, None],
                other=0.0,
            )
            logits = _logits(rows, tile_keys, scale, softcap)
            if CHECKED:
                logits = _hide(logits, queries, columns, n, m, positions, places, window)
            higher = tl.maximum(highest, tl.max(logits, 1))
            weights, shrink = tl.exp2(logits - higher[:, None]), tl.exp2(highest - higher)
            tile_values = tl.load(
                values + columns[:, None] * v_step + deep[None, :],
                mask=there[:, None] & (deep < V)[None, :],
                other=0.0,
            )
            total = total * shrink + tl.sum(weights, 1)
            weights = weights.to(tile_values.dtype)
            mixed = mixed * shrink[:, None] + _product(weights, tile_values)
            highest = higher
    total = tl.where(total > 0, total, 1.0)  # a split without keys
    place = ((split * tl.num_programs(1) + both).to(tl.int64) * q) + queries
    tl.store(lse + place, (highest + tl.log2(total)) / LOG2_E, mask=queries < q)
    tl.store(
        out + place[:, None] * V + deep[None, :],
        (mixed / total[:, None]).to(out.dtype.element_ty),
        mask=(queries < q)[:, None] & (deep < V)[None, :],
    )


@triton.jit
def sums_kernel(
    query,
    key,
    lse,
    weights,
    sums,
    positions,
    places,
    q_row,
    q_head,
    q_step,
    k_row,
    k_head,
    k_step,
    heads,
    group,
    n,
    q,
    window,
    scale,
    softcap,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``sums`` [R, heads, m]: over queries a, ``weights`` [R, q] times the probability of each key, by ``lse`` [R, heads, q].

    Grid: tiles of keys, rows times heads. One program adds up a key's whole sum, so that it never depends on their order.
    """
    tile, both = tl.program_id(0), tl.program_id(1)
    row, head = (both // heads).to(tl.int64), (both % heads).to(tl.int64)
    m = n + q
    if places is not None:
        places += row * m
        positions += row * q
    columns = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    wide = tl.arange(0, BLOCK_D)
    keys = tl.load(
        key + row * k_row + head // group * k_head + columns[None, :] * k_step + wide[:, None],
        mask=(columns < m)[None, :] & (wide < D)[:, None],
        other=0.0,
    )
    # Queries before the tile's first key see none of it; those from its last key on see all, unless some are hidden.
    first = tl.maximum(tile * BLOCK_K - n, 0) // BLOCK_Q * BLOCK_Q
    clear = tl.cdiv(q, BLOCK_Q) * BLOCK_Q
    if places is None:
        clear = tl.cdiv(tl.maximum((tile + 1) * BLOCK_K - 1 - n, 0), BLOCK_Q) * BLOCK_Q
    total = tl.zeros([BLOCK_K], tl.float32)
    for CHECKED in tl.static_range(2):
        begin = first if CHECKED else clear
        end = tl.minimum(clear, q) if CHECKED else q
        for start in range(begin, end, BLOCK_Q):
            queries = start + tl.arange(0, BLOCK_Q)
            there = queries < q
            rows = tl.load(
                query + row * q_row + head * q_head + queries[:, None] * q_step + wide[None, :],
                mask=there[:, None] & (wide < D)[None, :],
                other=0.0,
            )
            logits = _logits(rows, keys, scale, softcap)
            if CHECKED:
                logits = _hide(logits, queries, columns, n, m, positions, places, window)
            whole = tl.load(lse + both.to(tl.int64) * q + queries, mask=there, other=0.0) * LOG2_E
            weight = tl.load(weights + row * q + queries, mask=there, other=0.0)
            total += tl.sum(tl.exp2(logits - whole[:, None]) * weight[:, None], 0)
    tl.store(sums + both.to(tl.int64) * m + columns, total, mask=columns < m)
