"""The cascade against dense attention: one attention layer of Llama-3.1-8B's shape, a whole model, decoding.

One layer: the peers are SDPA's kernels alone, without projections, norms or rotation, which the cascade's side all does; so the
peers are favoured a little. The layer has an MLP of next to nothing.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks._gpu_part import Part, Timing
from benchmarks._gpu_prefill import row_of_reading
from benchmarks._models import SIZES, random_llama
from benchmarks.cascade_decode import decode, filled_cache
from benchmarks.cascade_prefill import read_cascade, read_dense
from lit_cartridges.cascade import reads_cascades

_FLASH, _CUDNN = "flash attention 2", "cuDNN"
_BACKENDS = {_CUDNN: SDPBackend.CUDNN_ATTENTION, _FLASH: SDPBackend.FLASH_ATTENTION}


def measure(part: Part) -> None:
    """Short lengths first, then a million tokens, then the whole model."""
    card = part.card
    options = Namespace(total_tokens=card.pick(16384, 36), cascades=4, stride_tokens=card.pick(4096, 16))
    layer = random_llama(card.pick("8b", "tiny"), device=card.device, dtype=card.dtype, attention_layers=1)
    seconds: dict[int, dict[str, float]] = {}
    for tokens in card.pick((2**16, 2**17, 2**18), (64, 128)):
        _layer(part, layer, options, tokens, seconds)
    if not card.tiny:
        # Flash attention 2 at a million tokens takes the longest of all, and cuDNN is the faster peer: it comes last.
        _layer(part, layer, options, 2**20, seconds, but=_FLASH)
    _readings(part, seconds)
    _whole_model(part, options)
    if not card.tiny:
        _layer(part, layer, options, 2**20, seconds, only=_FLASH)
        _readings(part, seconds)


def _layer(
    part: Part,
    layer: Any,
    options: Namespace,
    tokens: int,
    seconds: dict[int, dict[str, float]],
    *,
    but: str | None = None,
    only: str | None = None,
) -> None:
    card = part.card
    ids = torch.randint(0, layer.config.vocab_size, (1, tokens), device=card.device)
    calls: dict[str, Callable[[], Any]] = {"cascade": partial(read_cascade, options, layer, ids)}
    with part.trying(f"dense attention, {tokens:,} tokens"):
        calls |= _dense(part, tokens)
    calls = {name: call for name, call in calls.items() if name != but and only in (None, name)}
    # A dense kernel's time grows with the square, a cascade's with the length.
    before = max((n for n in seconds if n < tokens), default=0)
    expected = {
        f"{name}, {tokens:,} tokens": s * (tokens / before) ** (1 if name == "cascade" else 2)
        for name, s in seconds.get(before, {}).items()
    }
    long = tokens >= 2**18

    def report(name: str, timing: Timing) -> None:
        seconds.setdefault(tokens, {})[name.split(",")[0]] = timing.median_s
        row_of_reading(part, tokens, name, timing)

    part.race(
        {f"{name}, {tokens:,} tokens": call for name, call in calls.items()},
        report,
        repeats=1 if long else 3,
        warm_ups=0 if long else 1,
        expected_s=expected,
    )


def _dense(part: Part, tokens: int) -> dict[str, Callable[[], Any]]:
    _, width, _, _, heads, kv_heads = SIZES[part.card.pick("8b", "tiny")]
    query, key, value = (
        torch.randn(1, n, tokens, width // heads, device=part.card.device, dtype=part.card.dtype)
        for n in (heads, kv_heads, kv_heads)
    )

    backends = {_FLASH: SDPBackend.FLASH_ATTENTION} if part.card.device == "cpu" else _BACKENDS
    return {name: _attending(backend, query, key, value) for name, backend in backends.items()}


def _attending(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Any]:
    def attend(*heads: Tensor) -> None:
        with sdpa_kernel(backend):
            scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)

    try:
        attend(*(x[:, :, :64] for x in (query, key, value)))
    except RuntimeError:  # a kernel that does not know grouped heads gets keys and values repeated
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return partial(attend, query, key, value)


def _readings(part: Part, seconds: dict[int, dict[str, float]]) -> None:
    """At the longest length: how much faster; and the shortest length at which the cascade is faster than every peer."""
    faster = [n for n, times in seconds.items() if _times(times) is not None and (_times(times) or 0) > 1]
    if seconds:
        part.row(
            "faster than dense attention from, of these lengths",
            tokens=min(faster, default=None),  # None: at none of them
            wanted_below_tokens=2**17,
        )
    longest = max((n for n, times in seconds.items() if _times(times) is not None), default=None)
    if longest is not None:
        name = f"{longest:,} tokens: the faster dense kernel's time ÷ ours"
        part.ratio(name, _times(seconds[longest]), wanted=10.0)


def _times(times: dict[str, float]) -> float | None:
    dense = [s for name, s in times.items() if name != "cascade"]
    return min(dense) / times["cascade"] if dense and "cascade" in times else None


def _whole_model(part: Part, options: Namespace) -> None:
    card, model = part.card, part.card.model
    tokens, short, new = card.pick(2**17, 128), card.pick(1024, 8), card.pick(8, 2)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens), device=card.device)
    caches: dict[str, Any] = {}
    ours, dense = f"whole model, cascade, {tokens:,} tokens", f"whole model, SDPA, {tokens:,} tokens"

    def read() -> None:
        caches["long"] = read_cascade(options, model, ids)

    calls: dict[str, Callable[[], Any]] = {ours: read, dense: lambda: read_dense(model, ids) and None}
    timings = part.race(calls, partial(row_of_reading, part, tokens), repeats=1, warm_ups=0)
    if {ours, dense} == set(timings):
        times = timings[dense].median_s / timings[ours].median_s
        part.ratio(f"whole model, {tokens:,} tokens: SDPA's time ÷ ours", times, wanted=1.0)
    with part.trying("decoding"):
        caches["short"] = read_cascade(options, model, ids[:, :short])
        caches["dense"] = filled_cache(model, tokens)
        _decoding(part, caches, tokens=tokens, short=short, new=new)


def _decoding(part: Part, caches: dict[str, Any], *, tokens: int, short: int, new: int) -> None:
    model = part.card.model

    def cascade(which: str) -> None:
        with reads_cascades(model):
            decode(model, caches[which], new)

    after, first, dense = (
        f"a decoded token, {what}"
        for what in (f"cascade after {tokens:,}", f"cascade after {short:,}", f"dense after {tokens:,}")
    )
    calls: dict[str, Callable[[], Any]] = {
        first: partial(cascade, "short"),
        dense: lambda: decode(model, caches["dense"], new),
    }
    if "long" in caches:
        calls[after] = partial(cascade, "long")

    def report(name: str, timing: Timing) -> None:
        part.row(name, ms=1e3 * timing.median_s / new, peak_bytes=timing.peak_bytes)

    timings = part.race(calls, report)
    if {after, first} <= set(timings):
        times = timings[after].median_s / timings[first].median_s
        part.row(f"decoding: after {tokens:,} ÷ after {short:,}", times=times, wanted_at_most_times=1.2)
    if {after, dense} <= set(timings):
        times = timings[dense].median_s / timings[after].median_s
        part.ratio(f"decoding after {tokens:,}: dense's time ÷ ours", times, wanted=1.0)
