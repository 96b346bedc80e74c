"""`chunk_attention.attend` by Triton kernels that keep the probabilities on the chip, where these run.

The plain path is the reference, and runs wherever `suits` says no. Keys come rotated: each tile of keys is read once per tile
of queries and per query head, so rotating them as they are read would do that work dozens of times over.

Legend: R rows, KV key heads, G query heads per key head, q queries, n held columns, m = n + q keys, D and V head_dims.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.extras import PLAIN, AttentionExtras
from lit_cartridges.cascade.chunk_attention import ChunkLayout, attend

# Where kernels are compiled for. Under TRITON_INTERPRET=1 they run on the CPU too, which the tests ask for here.
DEVICE_TYPES = {"cuda"}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDEST = 256
# Programs that keep a large chip busy: with fewer tiles of queries than that, the keys are split among several.
BUSY_PROGRAMS = 256
_SMALLEST_SHARED_BYTES, _SPARE_BYTES = 101_376, 4096


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How many queries and keys a program holds at a time, powers of two of at least 16, and how it is compiled."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int

    def options(self) -> dict[str, int]:
        """As a kernel's launch takes them."""
        sizes = {"BLOCK_Q": self.queries, "BLOCK_K": self.keys}
        return sizes | {"num_warps": self.num_warps, "num_stages": self.num_stages}

    def shared_bytes(self, D: int, V: int, itemsize: int) -> int:
        """What is staged at a time: the queries, and ``num_stages`` tiles of keys and values."""
        return (self.queries * D + self.num_stages * self.keys * (D + V)) * itemsize


def suits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernels take these tensors, shaped as in `attend`.

    They do on a CUDA device of compute capability 8.0 or more where triton is installed, in one of bf16, fp16 and fp32, up to
    256 wide, and where no gradient is asked for; with fewer than 65,536 heads in all rows together (a launch takes no more),
    and less than 2^31 numbers from a head's first token to its last.
    """
    given = query, key, value
    if query.device.type not in DEVICE_TYPES or not _has_triton():
        return False
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return False
    if query.dtype not in DTYPES or not query.dtype == key.dtype == value.dtype:
        return False
    if max(query.shape[-1], value.shape[-1]) > WIDEST or query.shape[0] * query.shape[1] >= 2**16:
        return False
    if any(x.shape[2] * max(x.stride(2), x.shape[3]) >= 2**31 for x in given):
        return False
    return query.device.type != "cuda" or torch.cuda.get_device_capability(query.device) >= (8, 0)


def attend_here(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """`chunk_attention.attend` by whichever of the two ways these tensors take."""
    return (attend_on_chip if suits(query, key, value) else attend)(query, key, value, **options)


def attend_on_chip(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    layout: ChunkLayout,
    scale: float,
    window: int | None,
    extras: AttentionExtras = PLAIN,
) -> tuple[Tensor, Tensor]:
    """What `chunk_attention.attend` gives, up to rounding, for what `suits`."""
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    tiles = tiles_of(query, value)
    call: dict[str, Any] = {
        "layout": layout,
        "scale": scale,
        "window": window,
        "extras": extras,
        "tiles": tiles,
    }
    out, lse = attention(query, key, value, **call)
    return out, column_sums(query, key, lse, **call)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    layout: ChunkLayout,
    scale: float,
    window: int | None,
    extras: AttentionExtras,
    tiles: Tiles,
    splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [R, heads, q, V] in the values' dtype, and fp32 log-sum-exp [R, heads, q], sinks included.

    Args:
        splits: among how many programs the keys of one tile of queries are split; None for as many as keep the chip busy.
    """
    R, heads, q, D = query.shape
    m, V = value.shape[2:]
    programs = -(-q // tiles.queries) * R * heads
    splits = splits or max(1, min(BUSY_PROGRAMS // programs, -(-m // tiles.keys)))
    per_split = -(-m // (splits * tiles.keys)) * tiles.keys
    splits = -(-m // per_split)
    kind = value.dtype if splits == 1 else torch.float32
    out = value.new_empty(splits, R, heads, q, V, dtype=kind)
    lse = query.new_empty(splits, R, heads, q, dtype=torch.float32)
    positions, places, window = _positions(layout, window)
    with _on(query):
        triton_kernels().attention_kernel[(-(-q // tiles.queries), R * heads, splits)](
            *(query, key, value, out, lse, extras.sinks, positions, places),
            *(*query.stride()[:3], *key.stride()[:3], *value.stride()[:3]),
            *(heads, heads // key.shape[1], m - q, q, per_split, window, scale, extras.softcap),
            D=D,
            V=V,
            BLOCK_D=_padded(D),
            BLOCK_V=_padded(V),
            **tiles.options(),
        )
    if splits == 1:
        return out[0], lse[0]
    whole = lse.logsumexp(0)
    return (out * (lse - whole).exp()[..., None]).sum(0).to(value.dtype), whole


def column_sums(
    query: Tensor,
    key: Tensor,
    lse: Tensor,
    *,
    layout: ChunkLayout,
    scale: float,
    window: int | None,
    extras: AttentionExtras,
    tiles: Tiles,
) -> Tensor:
    """fp32 [R, heads, m]: per key the sum over queries of ``layout.weights`` times its probability under ``lse``."""
    R, heads, q, D = query.shape
    m = key.shape[2]
    sums = query.new_empty(R, heads, m, dtype=torch.float32)
    positions, places, window = _positions(layout, window)
    with _on(query):
        triton_kernels().sums_kernel[(-(-m // tiles.keys), R * heads)](
            *(query, key, lse, layout.weights.contiguous(), sums, positions, places),
            *(*query.stride()[:3], *key.stride()[:3]),
            *(heads, heads // key.shape[1], m - q, q, window, scale, extras.softcap),
            D=D,
            BLOCK_D=_padded(D),
            **tiles.options(),
        )
    return sums


def tiles_of(query: Tensor, value: Tensor) -> Tiles:
    """The largest tiles whose operands fit into shared memory and registers; few queries take a small tile."""
    D, V, size = _padded(query.shape[-1]), _padded(value.shape[-1]), query.element_size()
    wide = max(D, V)
    if size == 4:  # products without tensor cores, which hold their operands in registers
        most, keys = 32, 32 if wide <= 64 else 16
    else:
        most, keys = 128 if wide <= 128 else 64, 64
    queries = min(most, _padded(query.shape[2]))
    tiles = Tiles(queries=queries, keys=keys, num_warps=8 if queries == 128 else 4, num_stages=2)
    while tiles.shared_bytes(D, V, size) > _shared_bytes(query.device) and tiles.keys > 16:
        tiles = replace(tiles, keys=tiles.keys // 2)
    return tiles


def _positions(layout: ChunkLayout, window: int | None) -> tuple[Tensor, Tensor | None, int | None]:
    """The queries' positions, the keys' (`ChunkLayout.places`) or None where all are seen, and the window, if it hides any."""
    positions = layout.positions.contiguous()
    if window is not None and layout.limit <= window:
        window = None
    if layout.stored is None and layout.real is None and window is None:
        return positions, None, None
    return positions, layout.places, window


def _padded(size: int) -> int:
    """The next power of two that a product of tiles takes."""
    return max(16, 1 << (size - 1).bit_length())


def _on(like: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(like.device) if like.device.type == "cuda" else nullcontext()


def _shared_bytes(device: torch.device) -> int:
    """Of one multiprocessor, less what reductions take; on the CPU those of the smallest that has bf16 products."""
    if device.type != "cuda":
        return _SMALLEST_SHARED_BYTES - _SPARE_BYTES
    known = torch.cuda.get_device_properties(device)
    return getattr(known, "shared_memory_per_block_optin", known.shared_memory_per_block) - _SPARE_BYTES


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def triton_kernels() -> Any:
    """The module of the kernels, which needs Triton."""
    from lit_cartridges.cascade import triton_kernels as module

    return module
