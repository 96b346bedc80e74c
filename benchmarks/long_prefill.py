"""Seconds and memory of a prefill of L tokens: ours in windows, SDPA in one pass, and windows behind a dense mask.

SDPA is the unmodified model of transformers, which reads all tokens in one causal call and fills a cache. Ours is
`prefill`, as the ICL baseline, init strategies and `LocalTeacher` call it: each window reads the cached keys without a
mask and itself causally, and the two are merged. The dense mask [tokens of the window, all keys] is how `prefill` read in 0.1
until then; it is put in the place of ours for its calls. No side computes logits. The sides are called in turn, A B C A B C,
and their last keys are compared. Memory is the growth of the process (of the allocator, on a GPU) during a call, the keys and
values themselves included.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks import _common as common
from benchmarks._models import SIZES, kv_bytes_per_token, random_llama
from lit_cartridges.attention import reading
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.kernels import additive_mask
from lit_cartridges.attention.parts import RowsPart
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init.init_cost import measured_init

OURS, ONE_PASS, DENSE = "windows, merged (ours)", "one pass (SDPA)", "windows, dense mask"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, help="the model; 5m on the CPU and 3b on a GPU by default")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="TOKENS", help="8192 and 16384 by default")
    parser.add_argument("--window-tokens", type=int, help="4096 by default, as `prefill` has it")
    parser.add_argument(
        "--sides", nargs="+", choices=(OURS, ONE_PASS, DENSE), default=[OURS, ONE_PASS, DENSE]
    )
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    args.size = args.size or ("tiny" if args.quick else "3b" if cuda else "5m")
    args.lengths = args.lengths or ([64, 96] if args.quick else [8192, 16384])
    args.window_tokens = args.window_tokens or (16 if args.quick else 4096)
    args.repeats = args.repeats or (1 if args.quick else 3)
    facts = common.begin(args)
    common.headline(facts)
    model = random_llama(args.size, device=args.device, dtype=torch.bfloat16 if cuda else torch.float32)
    results = [_measure(args, model, length) for length in args.lengths]
    _print(args, results)
    return common.finish(args, {**facts, "results": results})


@torch.no_grad()
def _measure(args: Any, model: Any, length: int) -> dict[str, Any]:
    ids = torch.randint(0, model.config.vocab_size, (length,), device=args.device)
    sides = {
        OURS: partial(prefill, model, ids, window_tokens=args.window_tokens),
        ONE_PASS: partial(_one_pass, model, ids),
        DENSE: partial(_behind_dense_masks, model, ids, args.window_tokens),
    }
    sides = {name: side for name, side in sides.items() if name in args.sides}
    short = ids[: 2 * args.window_tokens]
    last = {
        name: side.func(model, short, *side.args[2:], **side.keywords)[0][-1] for name, side in sides.items()
    }
    for keys in last.values():  # and the first call of a process, which pays for more than itself, is made
        torch.testing.assert_close(keys, last[args.sides[0]], atol=5e-2, rtol=5e-2)
    del last
    clock = common.clock_of(args.device)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    memory: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(args.repeats):
        for name, side in sides.items():
            with measured_init(torch.device(args.device)) as cost:
                sample = common.timed(side, args.device)
            seconds[name].append(getattr(sample, f"{clock}_s"))
            memory[name].append(cost.peak_memory_bytes)
            common.progress(
                f"{length:,} tokens, {name}: {round_ + 1}/{args.repeats}, {seconds[name][-1]:.2f} s, "
                f"{memory[name][-1] / 2**20:.0f} MiB"
            )
    return {
        "tokens": length,
        "kv_bytes": length * kv_bytes_per_token(model),
        "seconds": {name: statistics.median(x) for name, x in seconds.items()},
        "peak_bytes": {name: statistics.median(x) for name, x in memory.items()},
        "ours_times": {
            name: statistics.median(a / b for a, b in zip(seconds[OURS], x, strict=True))
            for name, x in seconds.items()
            if OURS in sides
        },
    }


def _one_pass(model: Any, ids: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    cache = DynamicCache(config=model.config)
    model.base_model(ids[None], **cache_argument(cache), use_cache=True)
    held: list[Any] = list(cache.layers)
    return [x.keys[0] for x in held], [x.values[0] for x in held]


def _behind_dense_masks(model: Any, ids: Tensor, window_tokens: int) -> tuple[list[Tensor], list[Tensor]]:
    with patch.object(reading, "rows_part", _dense_part):
        return prefill(model, ids, window_tokens=window_tokens)


def _dense_part(query: Tensor, key: Tensor, real: Tensor | None, window: int | None) -> RowsPart:
    """As 0.1 had it, of rows without padding in layers without a window."""
    tokens, keys = query.shape[2], key.shape[2]
    if tokens == keys:
        return RowsPart(causal=True)
    places = torch.arange(keys, device=query.device)
    hidden = places[keys - tokens :, None] < places
    return RowsPart(causal=False, mask=additive_mask(hidden[None, None], query.dtype))


def _print(args: Any, results: list[dict[str, Any]]) -> None:
    headers = ["tokens", "their keys and values, MiB"]
    for name in args.sides:
        headers += [f"{name}, s", "MiB"] + (["ours ×"] if name != OURS and OURS in args.sides else [])
    rows = []
    for result in results:
        row = [f"{result['tokens']:,}", common.megabytes(result["kv_bytes"])]
        for name in args.sides:
            row += [f"{result['seconds'][name]:.2f}", common.megabytes(result["peak_bytes"][name])]
            if name != OURS and OURS in args.sides:
                row.append(f"{result['ours_times'][name]:.2f}")
        rows.append(row)
    common.print_table(
        f"**Prefill**: {args.size} Llama, windows of {args.window_tokens:,} tokens; "
        f"{common.clock_of(args.device)} seconds and growth of memory, medians of {args.repeats}; `ours ×` is our seconds "
        "divided by theirs.",
        headers,
        rows,
    )


if __name__ == "__main__":
    main()
