"""Seconds per decoded token after L tokens were read, and what the attention scores of a cascade cost.

Decoding: a cascading KV cache, whose size does not depend on L, against the unmodified model with all L tokens in its cache
(SDPA). The cascade has really read them; the dense cache is filled with random numbers, since its speed does not depend on
what it holds. "by columns" is the cascade with single tokens read like strides, which copies all that is held; on CUDA the
cascade's own step is captured in a graph before it is timed.

Scores: attention of one stride to a full cache and itself in one layer. "ours" gives output and scores from one softmax;
"no scores" is SDPA with the same mask, and gives the output alone; "second softmax" is SDPA, and the probabilities once
more for the scores. Outputs and scores are compared before anything is timed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache

from benchmarks import _common as common
from benchmarks._models import SIZES, random_llama, random_prefix
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import (
    CascadingCache,
    DecodingStep,
    cascade_prefill,
    reads_cascades,
)
from lit_cartridges.cascade.cascade_layer import CascadeLayer
from lit_cartridges.cascade.chunk_attention import ChunkLayout
from lit_cartridges.cascade.triton_attention import attend_here

OURS, COLUMNS, DENSE = "cascade", "by columns", "dense (SDPA)"
NO_SCORES, SECOND = "no scores (SDPA)", "second softmax"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, help="the model; 5m on the CPU and 3b on a GPU by default")
    parser.add_argument("--read-tokens", type=int, nargs="+", help="how much was read before; ascending")
    parser.add_argument("--new-tokens", type=int, help="decoded per measurement")
    parser.add_argument("--total-tokens", type=int, help="sinks and sub-caches; 1028 by default")
    parser.add_argument("--cascades", type=int, default=4)
    parser.add_argument("--stride-tokens", type=int, help="512 by default")
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    args.size = args.size or ("tiny" if args.quick else "3b" if cuda else "5m")
    args.read_tokens = sorted(args.read_tokens or ([64, 128] if args.quick else [1024, 4096, 16384]))
    args.new_tokens = args.new_tokens or (2 if args.quick else 32)
    args.total_tokens = args.total_tokens or (20 if args.quick else 1028)
    args.stride_tokens = args.stride_tokens or (16 if args.quick else 512)
    args.repeats = args.repeats or (1 if args.quick else 3)
    facts = common.begin(args)
    common.headline(facts)
    clock = common.clock_of(args.device)
    model = random_llama(args.size, device=args.device, dtype=torch.bfloat16 if cuda else torch.float32)
    results, scores = _decode(args, model), _scores(args, model)
    common.print_table(
        f"**Decoding**: {args.size} Llama, cache of {args.total_tokens} tokens in {args.cascades} sub-caches, one row; {clock} "
        f"milliseconds per token, {args.new_tokens} tokens, median of {args.repeats}.",
        (
            "tokens read before",
            OURS,
            COLUMNS,
            "tokens held",
            DENSE,
            "tokens held",
            "dense ÷ ours",
            "columns ÷ ours",
        ),
        [
            (
                f"{r['read_tokens']:,}",
                f"{1e3 * r['seconds_per_token'][OURS]:.2f}",
                f"{1e3 * r['seconds_per_token'][COLUMNS]:.2f}",
                f"{r['held_tokens']:,}",
                f"{1e3 * r['seconds_per_token'][DENSE]:.2f}",
                f"{r['read_tokens']:,}",
                f"{r['times_ours']:.2f}",
                f"{r['columns_times_ours']:.2f}",
            )
            for r in results
        ],
    )
    common.print_table(
        f"**Scores**: one layer, a stride of {args.stride_tokens} to a cache of {args.total_tokens} and itself; {clock} "
        f"milliseconds, median of {args.repeats}.",
        ("way", "ms", "× no scores"),
        [
            (name, f"{1e3 * seconds:.1f}", f"{seconds / scores['seconds'][NO_SCORES]:.2f}")
            for name, seconds in scores["seconds"].items()
        ],
    )
    return common.finish(args, {**facts, "results": results, "scores": scores})


@torch.no_grad()
def _decode(args: Any, model: Any) -> list[dict[str, Any]]:
    cascade = CascadingCache(
        config=model.config,
        total_tokens=args.total_tokens,
        cascades=args.cascades,
        stride_tokens=args.stride_tokens,
    )
    results, read, clock = [], 0, common.clock_of(args.device)

    def dense() -> None:
        decode(model, caches.pop(), args.new_tokens)

    def columns() -> None:
        with reads_cascades(model), by_columns():
            decode(model, other, args.new_tokens)

    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    for length in args.read_tokens:
        ids = torch.randint(0, model.config.vocab_size, (1, length - read), device=args.device)
        cascade_prefill(model, cascade, ids)
        read = length
        cache, other = copy.deepcopy(cascade), copy.deepcopy(cascade)
        step = DecodingStep(model, cache, graphs=True)

        def ours(step: DecodingStep = step) -> None:
            with reads_cascades(model):
                for _ in range(args.new_tokens):
                    step(token)

        # Made beforehand, so that they are not timed, since they grow; one more for the warm-up.
        caches = [filled_cache(model, length) for _ in range(args.repeats + 1)]
        samples = common.alternate(
            {OURS: ours, COLUMNS: columns, DENSE: dense},
            repeats=args.repeats,
            warm_ups=1,
            device=args.device,
        )
        results.append(
            {
                "read_tokens": length,
                "held_tokens": int(cascade.layers[0].stored().max()),
                "seconds_per_token": {
                    name: common.median_s(s, clock) / args.new_tokens for name, s in samples.items()
                },
                "times_ours": common.ratio(samples[DENSE], samples[OURS], clock),
                "columns_times_ours": common.ratio(samples[COLUMNS], samples[OURS], clock),
            }
        )
    return results


@contextmanager
def by_columns() -> Iterator[None]:
    """Inside, no cascade takes itself for full, and single tokens are read as strides are."""
    full = CascadeLayer.is_full
    CascadeLayer.is_full = False
    try:
        yield
    finally:
        CascadeLayer.is_full = full


@torch.no_grad()
def decode(model: Any, cache: Any, new_tokens: int) -> None:
    """One row, so many tokens."""
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    for _ in range(new_tokens):
        model(token, **cache_argument(cache), use_cache=True)


def filled_cache(model: Any, tokens: int) -> DynamicCache:
    """Random keys and values of so many tokens, one row."""
    cache = DynamicCache(config=model.config)
    for layer, (key, value) in enumerate(zip(*random_prefix(model, tokens), strict=True)):
        cache.update(key[None].to(model.dtype), value[None].to(model.dtype), layer)
    return cache


@torch.no_grad()
def _scores(args: Any, model: Any) -> dict[str, Any]:
    n, q, config = args.total_tokens, args.stride_tokens, model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    dim = config.hidden_size // heads
    query = torch.randn(1, heads, q, dim, device=args.device, dtype=model.dtype)
    key, value = (
        torch.randn(1, kv_heads, n + q, dim, device=args.device, dtype=model.dtype) for _ in range(2)
    )
    weights = 0.9999 ** torch.arange(q - 1, -1, -1, device=args.device, dtype=torch.float32)[None]
    layout = ChunkLayout(
        held=n,
        stored=None,
        positions=torch.arange(n, n + q, device=args.device)[None],
        real=None,
        weights=weights,
        limit=n + q,
    )
    scale = dim**-0.5
    seen = torch.ones(q, n + q, dtype=torch.bool, device=args.device).tril(n)
    grouped = heads != kv_heads

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        return attend_here(query, key, value, layout=layout, scale=scale, window=None)

    def plain() -> torch.Tensor:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scale, enable_gqa=grouped
        )

    def second() -> tuple[torch.Tensor, torch.Tensor]:
        out = plain()
        keys = key.repeat_interleave(heads // kv_heads, 1).float()
        logits = (query.float() * scale) @ keys.transpose(2, 3)
        p = logits.masked_fill_(~seen, torch.finfo(torch.float32).min).softmax(-1)
        return out, (weights[:, None, None] @ p).squeeze(2)

    tolerance = 1e-4 if model.dtype == torch.float32 else 3e-2
    for mine, theirs in zip(ours(), second(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    samples = common.alternate(
        {"ours": ours, NO_SCORES: plain, SECOND: second},
        repeats=args.repeats,
        warm_ups=1,
        device=args.device,
    )
    clock = common.clock_of(args.device)
    return {"seconds": {name: common.median_s(s, clock) for name, s in samples.items()}}


if __name__ == "__main__":
    main()
