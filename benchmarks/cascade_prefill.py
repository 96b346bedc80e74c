"""Seconds and memory of reading L tokens: a cascading KV cache of fixed size against dense attention, L = 2^10 and on.

Dense is the unmodified model with transformers' SDPA, which keeps no mask and no probabilities: memory linear, time
quadratic in L. On a GPU "flash" is the same with torch's flash kernel forced. The cascade reads in strides, in plain PyTorch,
with attention scores for every held token. Both sides fill a cache and compute no logits. Measured for one layer (its
MLP included) and for a whole model, each length in turn A B A B; a call of more than 10 seconds is made once. A side is not
asked for lengths that would take it more than --budget-s, judged by its last two lengths, nor for any after the one at which
memory ran out. Memory is the growth of the process (of the allocator, on a GPU) during the call.

The paper's figure (arXiv 2406.17808) is 6.8 times less latency than flash attention at a million tokens, with a Triton kernel.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache, PreTrainedModel

from benchmarks import _common as common
from benchmarks._models import SIZES, random_llama
from benchmarks._plots import crossing, loglog_plot, loglog_slope
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import CascadingCache, cascade_prefill
from lit_cartridges.init.init_cost import measured_init

_ONCE_S = 10.0  # what takes longer is not repeated
OURS, DENSE, FLASH = "cascade", "dense (SDPA)", "dense (flash)"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, help="the model; 5m on the CPU and 3b on a GPU by default")
    parser.add_argument("--log2-lengths", type=int, nargs=2, metavar=("FIRST", "LAST"))
    parser.add_argument("--total-tokens", type=int, help="sinks and sub-caches; 1028 by default")
    parser.add_argument("--cascades", type=int, default=4)
    parser.add_argument("--stride-tokens", type=int, help="512 by default")
    parser.add_argument("--parts", nargs="+", choices=("layer", "model"), default=["layer", "model"])
    parser.add_argument("--budget-s", type=float, default=60.0, help="the longest call that is still made")
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="write a log-log plot to this file (.svg, .png, …)"
    )
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    args.size = args.size or ("tiny" if args.quick else "3b" if cuda else "5m")
    args.log2_lengths = args.log2_lengths or ([5, 7] if args.quick else [10, 20] if cuda else [10, 14])
    args.total_tokens = args.total_tokens or (20 if args.quick else 1028)
    args.stride_tokens = args.stride_tokens or (16 if args.quick else 512)
    args.repeats = args.repeats or (1 if args.quick else 3)
    facts = common.begin(args)
    common.headline(facts)
    results: list[dict[str, Any]] = []
    for part in args.parts:  # each is shown and kept as soon as it is known: the next may take an hour
        results.append(_measure(args, part))
        _print(args, results[-1])
        if args.plot:
            _plot(args, results)
        figures = common.finish(args, {**facts, "results": results})
    return figures


def _measure(args: Any, part: str) -> dict[str, Any]:
    cuda = args.device == "cuda"
    model: Any = random_llama(args.size, device=args.device, dtype=torch.bfloat16 if cuda else torch.float32)
    if part == "layer":
        model.model.layers = model.model.layers[:1]
        model.config.num_hidden_layers = 1
    sides: dict[str, Callable[[torch.Tensor], Any]] = {
        OURS: lambda ids: read_cascade(args, model, ids),
        DENSE: lambda ids: read_dense(model, ids),
    }
    if cuda:
        sides[FLASH] = lambda ids: read_dense(model, ids, flash=True)
    clock = common.clock_of(args.device)
    points: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    stopped: dict[str, int] = {}  # out of memory, and at how many tokens
    first, last = args.log2_lengths
    for side in sides.values():  # the first call of a process pays for more than itself
        side(torch.randint(0, model.config.vocab_size, (1, 2**first), device=args.device))
    for length in (2**k for k in range(first, last + 1)):
        ids = torch.randint(0, model.config.vocab_size, (1, length), device=args.device)
        expected = {name: _expected_s(points[name]) for name in sides}
        going = [name for name in sides if name not in stopped and expected[name] <= args.budget_s]
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in going}
        for round_ in range(args.repeats):
            for name in going:
                if name in stopped or (round_ > 0 and expected[name] > _ONCE_S):
                    continue
                try:
                    with measured_init(torch.device(args.device)) as cost:
                        sample = common.timed(partial(sides[name], ids), args.device)
                except (RuntimeError, MemoryError) as error:
                    if not common.out_of_memory(error):
                        raise
                    stopped[name] = length
                    del found[name]
                    common.progress(f"{part}, {length:,} tokens, {name}: out of memory")
                    continue
                found[name].append((getattr(sample, f"{clock}_s"), cost.peak_memory_bytes))
            if stopped:
                common.free_memory()
        for name, pairs in found.items():
            seconds, memory = (statistics.median(side) for side in zip(*pairs, strict=True))
            points[name].append({"tokens": length, "seconds": seconds, "peak_bytes": memory})
            common.progress(f"{part}, {length:,} tokens, {name}: {seconds:.2f} s, {memory / 2**20:.0f} MiB")
    return {"part": part, "sides": points, "out_of_memory_at": stopped, "readings": _readings(points)}


def read_cascade(args: Any, model: PreTrainedModel, ids: torch.Tensor) -> CascadingCache:
    """Into a new cache of ``args``'s ``total_tokens``, ``cascades`` and ``stride_tokens``."""
    cache = CascadingCache(
        config=model.config,
        total_tokens=args.total_tokens,
        cascades=args.cascades,
        stride_tokens=args.stride_tokens,
    )
    cascade_prefill(model, cache, ids)
    return cache


@torch.no_grad()
def read_dense(model: Any, ids: torch.Tensor, *, flash: bool = False) -> DynamicCache:
    """Into a new cache, in one pass."""
    cache = DynamicCache(config=model.config)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION) if flash else nullcontext():
        model.base_model(ids, **cache_argument(cache), use_cache=True)
    return cache


def _expected_s(points: list[dict[str, float]]) -> float:
    """Of twice the last length, by the growth from the one before; 0 while nothing is known."""
    if len(points) < 2:
        return points[-1]["seconds"] if points else 0.0
    return points[-1]["seconds"] * max(1.0, points[-1]["seconds"] / points[-2]["seconds"])


def _readings(points: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Slopes over each side's last four lengths; per peer the crossing and the ratio at the longest common length."""
    ours = points[OURS]
    readings: dict[str, Any] = {
        "slopes": {
            name: loglog_slope([p["tokens"] for p in side[-4:]], [p["seconds"] for p in side[-4:]])
            for name, side in points.items()
        },
        "against": {},
    }
    for name in (name for name in points if name != OURS):
        common_ = min(len(ours), len(points[name]))
        if not common_:
            continue
        mine, theirs = ([p["seconds"] for p in side[:common_]] for side in (ours, points[name]))
        readings["against"][name] = {
            "crossing_tokens": crossing([p["tokens"] for p in ours[:common_]], mine, theirs),
            "longest_common_tokens": ours[common_ - 1]["tokens"],
            "times_ours": theirs[-1] / mine[-1],
            "times_our_memory": points[name][common_ - 1]["peak_bytes"]
            / max(1.0, ours[common_ - 1]["peak_bytes"]),
        }
    return readings


def _plot(args: Any, results: list[dict[str, Any]]) -> None:
    panels = {
        f"{args.size} Llama, {'one layer' if r['part'] == 'layer' else 'whole model'}": {
            name: ([p["tokens"] for p in points], [p["seconds"] for p in points])
            for name, points in r["sides"].items()
        }
        for r in results
    }
    loglog_plot(args.plot, panels, x="tokens read", y=f"{common.clock_of(args.device)} seconds")


def _print(args: Any, result: dict[str, Any]) -> None:
    clock, sides = common.clock_of(args.device), result["sides"]
    peers = [name for name in sides if name != OURS]
    rows = []
    for i, point in enumerate(max(sides.values(), key=len)):
        row = [f"{point['tokens']:,}"]
        for name in sides:
            known = sides[name][i] if i < len(sides[name]) else None
            row += [f"{known['seconds']:.3f}", common.megabytes(known["peak_bytes"])] if known else ["–", "–"]
        row += [
            f"{sides[name][i]['seconds'] / sides[OURS][i]['seconds']:.2f}"
            if i < min(len(sides[name]), len(sides[OURS]))
            else "–"
            for name in peers
        ]
        rows.append(row)
    title = "One layer" if result["part"] == "layer" else "Whole model"
    common.print_table(
        f"**{title}**: {args.size} Llama, cache of {args.total_tokens} tokens in {args.cascades} sub-caches, strides of "
        f"{args.stride_tokens}; {clock} seconds and MiB, median of {args.repeats} (calls above {_ONCE_S:.0f} s: one).",
        (
            "tokens read",
            *[c for name in sides for c in (f"{name}, s", "MiB")],
            *[f"{n} ÷ ours" for n in peers],
        ),
        rows,
    )
    readings = result["readings"]
    slopes = ", ".join(f"{name} {slope:.2f}" for name, slope in readings["slopes"].items())
    print(f"Slope in the log-log plot, last four lengths: {slopes}.")
    for name, tokens in result["out_of_memory_at"].items():
        print(f"Memory ran out at {tokens:,} tokens: {name}.")
    for name, found in readings["against"].items():
        where = found["crossing_tokens"]
        print(
            f"Against {name}: {'no crossing in this range' if where is None else f'faster from {where:,.0f} tokens on'}; at "
            f"{found['longest_common_tokens']:,} tokens {found['times_ours']:.2f} times our time and "
            f"{found['times_our_memory']:.2f} times our memory.\n"
        )


if __name__ == "__main__":
    main()
