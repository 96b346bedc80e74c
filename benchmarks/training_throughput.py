"""A training step of ours against Hugging Face PEFT's CARTRIDGE tuner: tokens per second, memory, share of the floor.

Same frozen random Llama, same cartridge to start from, same conversations of mixed length per optimizer step, both
handed the teacher's top-20 log-probabilities. PEFT pads its batch, as its self-study example does; "PEFT, one by one"
runs the same conversations in batches of one. Before anything is timed, both sides must give the same losses.

The floor is 4 FLOPs per weight and token: forward, and backward to the activations only. Every token passes the layers,
only answer tokens the language head. Its seconds are at the speed of a plain matrix product, measured in the same run.
Peak memory is that of a fresh process, above what it held once the model was loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

import torch

from benchmarks import _common as common
from benchmarks._models import SIZES, count_parameters, random_conversations, random_llama
from benchmarks._spans import breakdown
from benchmarks._training_sides import OurSide, make_side

NAMES = {"ours": "lit_cartridges, packed", "peft": "PEFT, padded batch", "peft-1": "PEFT, one by one"}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, help="the model; 30m on the CPU and 3b on a GPU by default")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the frozen weights")
    parser.add_argument("--num-tokens", type=int, nargs="+", default=[512], help="cartridge sizes")
    parser.add_argument("--conversations", type=int, help="conversations per optimizer step")
    parser.add_argument("--lengths", type=int, nargs=2, default=[32, 512], metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--sides", nargs="+", choices=NAMES, default=list(NAMES), help="ours is always among them"
    )
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="leave out peak memory, which takes one more process per side; so does --quick",
    )
    parser.add_argument("--memory-of", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.no_memory |= args.quick
    args.sides = ["ours", *(side for side in args.sides if side != "ours")]
    cuda = args.device == "cuda"
    args.size = args.size or ("5m" if args.quick else "3b" if cuda else "30m")
    args.dtype = args.dtype or ("bfloat16" if cuda else "float32")
    args.conversations = args.conversations or (4 if args.quick else 32 if cuda else 8)
    args.repeats = args.repeats or (1 if args.quick else 10 if cuda else 3)
    facts = common.begin(args)
    if args.memory_of:
        return _memory(args)
    common.headline(facts)
    results = []
    peak_flops = common.matmul_flops(args.device, getattr(torch, args.dtype))
    for num_tokens in args.num_tokens:
        results.append(_measure(args, num_tokens, peak_flops))
    return common.finish(args, {**facts, "matmul_flops_per_s": peak_flops, "results": results})


def _measure(args: argparse.Namespace, num_tokens: int, peak_flops: float) -> dict[str, Any]:
    model = random_llama(args.size, device=args.device, dtype=getattr(torch, args.dtype))
    examples = _conversations(args)
    tokens = sum(len(e.token_ids) for e in examples)
    answers = sum(len(e.target_ids) for e in examples)
    padded = len(examples) * max(len(e.token_ids) for e in examples)
    layers, head = count_parameters(model)
    floor_s = (4 * layers * tokens + 4 * head * answers) / peak_flops
    sides = {name: make_side(name, model, num_tokens, len(examples)) for name in args.sides}
    shortest = sorted(examples, key=lambda e: len(e.token_ids))[:2]
    agreement = _require_same_losses(sides, shortest, args.dtype)
    clock = common.clock_of(args.device)

    for side in sides.values():  # Adam's state, and whatever the first call sets up
        side.step(shortest)
    samples = common.alternate(
        {NAMES[name]: (lambda side=side: side.step(examples)) for name, side in sides.items()},
        repeats=args.repeats,
        device=args.device,
    )
    measured = {}
    for name in args.sides:
        ours, theirs = samples[NAMES["ours"]], samples[NAMES[name]]
        step_s = common.median_s(theirs, clock)
        measured[name] = {
            "wall_s": common.median_s(theirs, "wall"),
            "cpu_s": common.median_s(theirs, "cpu"),
            "answer_tokens_per_s": answers / step_s,
            "tokens_per_s": tokens / step_s,
            "share_of_floor": floor_s / step_s,
            "peak_bytes": None if args.no_memory else _memory_apart(args, name, num_tokens),
            "times_ours_wall": common.ratio(theirs, ours, "wall"),
            "times_ours_cpu": common.ratio(theirs, ours, "cpu"),
        }
    common.print_table(
        f"**One optimizer step**: {args.size} Llama ({(layers + head) / 1e6:.1f}M weights, {args.dtype}), cartridge of "
        f"{num_tokens} tokens, {len(examples)} conversations of {args.lengths[0]} to {args.lengths[1]} tokens: "
        f"{tokens:,} tokens ({padded:,} padded), {answers:,} of them answers. Rates by {clock} seconds; "
        f"matrix products run at {peak_flops / 1e9:,.0f} GFLOP/s; median of {args.repeats}.",
        ("", "answer tok/s", "all tok/s", "s/step wall", "s/step CPU", "× ours wall", "× ours CPU")
        + ("floor share", "peak MiB"),
        [
            (
                NAMES[name],
                f"{m['answer_tokens_per_s']:,.0f}",
                f"{m['tokens_per_s']:,.0f}",
                f"{m['wall_s']:.2f}",
                f"{m['cpu_s']:.2f}",
                f"{m['times_ours_wall']:.2f}",
                f"{m['times_ours_cpu']:.2f}",
                f"{m['share_of_floor']:.0%}",
                "–" if args.no_memory else common.megabytes(m["peak_bytes"]),
            )
            for name, m in measured.items()
        ],
    )
    parts = _breakdown(sides["ours"], examples) if args.device == "cpu" else {}
    return {
        "num_tokens": num_tokens,
        "tokens": tokens,
        "padded_tokens": padded,
        "answer_tokens": answers,
        "weights": layers + head,
        "floor_s": floor_s,
        "largest_loss_difference_nats": agreement,
        "sides": measured,
        "breakdown_cpu_s": parts,
    }


def _breakdown(side: Any, examples: Any) -> dict[str, float]:
    assert isinstance(side, OurSide)
    common.progress("where our step's time goes")
    optimizer_step = side.optimizer.step

    def step(span: Any) -> None:
        def spanned(*args: Any, **kwargs: Any) -> Any:
            with span("optimizer"):
                return optimizer_step(*args, **kwargs)

        side.optimizer.step = spanned  # type: ignore[method-assign]
        try:
            side.step(examples)
        finally:
            side.optimizer.step = optimizer_step  # type: ignore[method-assign]

    parts = breakdown(step)
    total = sum(parts.values())
    common.print_table(
        "**Where our step goes** (CPU seconds of one step, every operation timed)",
        ("part", "s", "share"),
        [
            (name, f"{s:.3f}", f"{s / total:.1%}")
            for name, s in sorted(parts.items(), key=lambda part: -part[1])
        ],
    )
    return parts


def _require_same_losses(sides: dict[str, Any], examples: Any, dtype: str) -> float:
    losses = [side.answer_losses(examples).float() for side in sides.values()]
    # Tensors' max keeps a NaN, which Python's may drop.
    difference = torch.stack([(loss - losses[0]).abs().max() for loss in losses]).max().item()
    tolerance = 1e-3 if dtype == "float32" else 0.3
    if not difference < tolerance:
        raise AssertionError(f"the sides' losses differ by {difference} nats; they do not do the same work")
    return difference


def _conversations(args: argparse.Namespace) -> Any:
    return random_conversations(
        args.conversations,
        vocabulary=SIZES[args.size][0],
        shortest=args.lengths[0],
        longest=args.lengths[1],
        seed=args.seed,
    )


def _memory_apart(args: argparse.Namespace, name: str, num_tokens: int) -> int:
    common.progress(f"{NAMES[name]}: memory, in a process of its own")
    options = {
        "--memory-of": name, "--size": args.size, "--dtype": args.dtype, "--num-tokens": num_tokens,
        "--conversations": args.conversations, "--threads": args.threads, "--device": args.device, "--seed": args.seed,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair] + ["--lengths", *map(str, args.lengths)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.training_throughput", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak_bytes"])


def _memory(args: argparse.Namespace) -> dict[str, Any]:
    model = random_llama(args.size, device=args.device, dtype=getattr(torch, args.dtype))
    examples = _conversations(args)
    import peft  # noqa: F401  # both sides' processes hold the same modules

    shortest = sorted(examples, key=lambda e: len(e.token_ids))[:1]
    model(torch.zeros(1, 8, dtype=torch.long, device=args.device))
    before = common.peak_bytes(args.device, reset=True)
    side = make_side(args.memory_of, model, args.num_tokens[0], len(examples))
    side.step(shortest)
    side.step(examples)
    # The kernel counts pages in batches per thread, so that a peak of next to nothing may come out below zero.
    figures = {"peak_bytes": max(0, common.peak_bytes(args.device) - before)}
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
