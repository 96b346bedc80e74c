"""Memory, FLOPs, network bytes and expected tokens/s of training a cartridge for large Llamas, on paper.

Prints tables from formulas: counts (`lit_cartridges.estimates.counts`), and seconds from a roofline
(`lit_cartridges.estimates.roofline`) whose every assumption is an option below. With --measure, the counts stand beside
what this package's code does on small models. No figure here was measured on an H100.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import _common as common
from benchmarks._rates import rates_of, served_conversations_per_s
from benchmarks._scaling_plot import plot_rates
from lit_cartridges.estimates import counts as scaling
from lit_cartridges.estimates import roofline
from lit_cartridges.estimates.machine import Machine
from lit_cartridges.estimates.roofline import STRATEGIES, Work
from lit_cartridges.estimates.shapes import Shape

# Llama-3.1, from its published configs.
LLAMA_3_1 = {
    "8B": Shape(layers=32, width=4096, mlp_width=14336, heads=32, kv_heads=8, vocabulary=128256),
    "70B": Shape(layers=80, width=8192, mlp_width=28672, heads=64, kv_heads=8, vocabulary=128256),
    "405B": Shape(layers=126, width=16384, mlp_width=53248, heads=128, kv_heads=8, vocabulary=128256),
}
DOES_NOT_FIT = "does not fit"
# GPUs of one served teacher: its weights in bf16, and room for keys and values.
SERVED_BY = {"8B": 1, "70B": 4, "405B": 16}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--models", nargs="+", choices=LLAMA_3_1, default=list(LLAMA_3_1))
    parser.add_argument(
        "--keep-activations",
        action="store_true",
        help="without gradient checkpointing, which the recipes have",
    )
    parser.add_argument("--measure", action="store_true", help="also compare the counts on small models")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw tokens/s over GPUs into this file")
    for title, kind in (("the machine, assumed", Machine), ("the run, assumed", Work)):
        group = parser.add_argument_group(title)
        for one in fields(kind):
            group.add_argument(
                f"--{one.name.replace('_', '-')}",
                type=type(one.default),
                default=one.default,
                help=f"{one.metadata['help']} (%(default)s)",
            )
    args = parser.parse_args(argv)
    facts = common.begin(args)
    machine = Machine(**{f.name: getattr(args, f.name) for f in fields(Machine)})
    work = Work(**{f.name: getattr(args, f.name) for f in fields(Work)})
    shapes = {name: LLAMA_3_1[name] for name in args.models}
    print("Computed, not measured: no figure below comes from an H100.\n")
    print_assumptions(machine, work)
    print_shapes(shapes)
    print_memory_parts(shapes, work)
    print_costs(shapes, work)
    print_network(shapes, args.gpus, work)

    def cells(gpus: Iterable[int]) -> list[dict[str, Any]]:
        recompute = not args.keep_activations
        return [
            estimate(name, shape, strategy, n, machine, work, recompute=recompute)
            for (name, shape), strategy, n in product(shapes.items(), STRATEGIES, gpus)
        ]

    results = cells(args.gpus)
    print_estimates(results)
    print_choices(shapes, machine, work, recompute=not args.keep_activations)
    figures: dict[str, Any] = {**facts, "results": results}
    if args.measure:
        common.headline(facts)
        figures["compared"] = print_compared(quick=args.quick)
    if args.plot is not None:
        plot_rates(args.plot, cells(2**i for i in range(10)), work)
    return common.finish(args, figures)


def estimate(
    name: str, shape: Shape, strategy: str, gpus: int, machine: Machine, work: Work, *, recompute: bool
) -> dict[str, Any]:
    """All figures of one cell; rates are None where it does not fit."""
    training, both = (
        roofline.memory(shape, strategy, gpus, work, recompute=recompute, generates=generates)
        for generates in (False, True)
    )
    trains, generates = (roofline.fits(shape, strategy, gpus, parts, machine) for parts in (training, both))
    times = roofline.times(shape, strategy, gpus, work, machine, recompute=recompute)
    rates = rates_of(gpus, work, times)
    by = SERVED_BY[name]
    served = served_conversations_per_s(shape, by, work, machine) * gpus / by
    return {
        "model": name,
        "strategy": strategy,
        "gpus": gpus,
        "training_gb": roofline.used_gb(training, machine),
        "generating_gb": roofline.used_gb(both, machine),
        "trains": trains,
        "generates": generates,
        **{key: value if trains else None for key, value in asdict(rates).items()},
        "served_s": work.conversations / served if gpus >= by else None,
        "decode_s_per_token": times.token_s if generates else None,
        "tokens_per_s": rates.tokens_per_s if generates else None,
        "generating_s": rates.generating_s if generates else None,
    }


def print_assumptions(machine: Machine, work: Work) -> None:
    for title, held in (("**The machine, assumed**", machine), ("**The run, assumed**", work)):
        rows = [
            (f"`--{f.name.replace('_', '-')}`", getattr(held, f.name), f.metadata["help"])
            for f in fields(held)
        ]
        common.print_table(title, ("option", "value", "what"), rows)


def print_shapes(shapes: dict[str, Shape]) -> None:
    names = ("layers", "width", "mlp_width", "heads", "kv_heads", "head_dim", "vocabulary", "weights")
    common.print_table(
        "**Shapes** (Llama-3.1)",
        ("model", *(name.replace("_", " ") for name in names)),
        [(name, *(f"{getattr(shape, n):,}" for n in names)) for name, shape in shapes.items()],
    )


def print_memory_parts(shapes: dict[str, Shape], work: Work) -> None:
    kept, again = work.row(recompute=False), work.row(recompute=True)
    tokens, chunk = work.cartridge_tokens, work.longest_chunk_tokens
    lines: dict[str, Any] = {
        "frozen weights, whole (DDP)": scaling.whole_weight_bytes,
        "frozen weights, sharded over all GPUs together (ZeRO-3, offload)": scaling.gathered_bytes,
        "output head, whole all the same": scaling.kept_weight_bytes,
        "a layer or the embedding, gathered": scaling.gathered_unit_bytes,
        "cartridge, gradient, bucket, moments (DDP)": lambda s: scaling.cartridge_bytes(s, tokens),
        "cartridge, copy, moments, gradient (ZeRO-3, 64 GPUs)": lambda s: scaling.zero_cartridge_bytes(
            s, tokens, 64
        ),
        "kept for backward": lambda s: scaling.kept_bytes(s, kept),
        "kept for backward, with gradient checkpointing": lambda s: scaling.kept_bytes(s, again),
        "beside it: loss chunk, or a layer's backward": lambda s: scaling.working_bytes(s, again),
        "end of backward (ZeRO-3): buckets, gradients": lambda s: scaling.exchange_bytes(s, tokens),
        "keys and values of the last chunk": lambda s: chunk * s.kv_elements * 2,
        "generating beside that": lambda s: roofline.generating_bytes(s, work) - chunk * s.kv_elements * 2,
    }
    common.print_table(
        f"**Parts of the memory**, GB, bf16 model; cartridge of {tokens:,} tokens, row of {kept.tokens:,}, "
        f"{work.rows_per_group} conversations side by side",
        ("part", *shapes),
        [(label, *(billions(part(shape)) for shape in shapes.values())) for label, part in lines.items()],
    )


def print_costs(shapes: dict[str, Shape], work: Work) -> None:
    kept, again = work.row(recompute=False), work.row(recompute=True)
    rows, own = work.rows_per_group, work.conversation_tokens
    lines: dict[str, Any] = {
        "forward, GFLOP per trained token": lambda s: scaling.forward_flops(s, kept) / kept.tokens,
        "backward": lambda s: scaling.backward_flops(s, kept) / kept.tokens,
        "backward, with gradient checkpointing": lambda s: scaling.backward_flops(s, again) / kept.tokens,
        "prefill of a mean chunk, GFLOP per token": lambda s: (
            scaling.prefill_flops(s, work.chunk_tokens) / work.chunk_tokens
        ),
        "decoding, GFLOP per token": lambda s: (
            scaling.decode_flops(s, prefix_tokens=work.chunk_tokens, rows=rows, own_tokens=own) / rows
        ),
        f"decoding, GB of GPU memory moved per step of {rows} rows": lambda s: scaling.decode_bytes(
            s, prefix_tokens=work.chunk_tokens, rows=rows, own_tokens=own
        ),
    }
    common.print_table(
        "**Work**",
        ("", *shapes),
        [(label, *(billions(cost(shape)) for shape in shapes.values())) for label, cost in lines.items()],
    )


def print_network(shapes: dict[str, Shape], gpus: Sequence[int], work: Work) -> None:
    lines = []
    for name, shape in shapes.items():
        exchange = scaling.ddp_payload_bytes(shape, work.cartridge_tokens)
        training, forward = scaling.gathered_for_training_bytes(shape), scaling.gathered_bytes(shape)
        for label, received in (
            ("optimizer step, DDP", lambda n, x=exchange: 2 * scaling.received_bytes(x, n)),
            ("optimizer step, ZeRO-3", lambda n, x=exchange: 3 * scaling.received_bytes(x, n)),
            ("packed row, ZeRO-3", lambda n, x=training: scaling.received_bytes(x, n)),
            ("packed row, offload: over PCIe", lambda n, x=training: x / n),
            ("decoded token, ZeRO-3", lambda n, x=forward: scaling.received_bytes(x, n)),
        ):
            lines.append((f"{name} {label}", *(billions(received(n)) for n in gpus)))
    common.print_table("**Received by each GPU**, GB", ("", *(f"{n} GPUs" for n in gpus)), lines)


def print_estimates(results: Sequence[dict[str, Any]]) -> None:
    rows = []
    for r in results:
        own = r["generates"]
        rows.append(
            (
                f"{r['model']} {r['strategy']}, {r['gpus']} GPUs",
                f"{r['training_gb']:,.0f}",
                f"{r['generating_gb']:,.0f}",
                f"{r['training_tokens_per_s']:,.0f}" if r["trains"] else DOES_NOT_FIT,
                f"{r['tokens_per_s']:,.0f}" if own else DOES_NOT_FIT,
                duration(r["training_s"]),
                duration(r["generating_s"]),
                duration(r["served_s"]),
                f"{r['decode_s_per_token']:.2f} s" if own else "–",
                r["steps"] if r["trains"] else "–",
            )
        )
    common.print_table(
        "**Expected**: GB of a GPU, training alone and with the teacher in process; trained tokens/s of all GPUs, likewise; and "
        "for all conversations the time to train, to generate in process, and to generate by served teachers on as many GPUs "
        "more; the time of a token that the teacher in process decodes, one of each row; optimizer steps.",
        ("", "GB", "GB, own teacher", "tokens/s", "tokens/s, own teacher")
        + ("training", "own teacher", "served teachers", "own teacher's token", "steps"),
        rows,
    )


def print_choices(shapes: dict[str, Shape], machine: Machine, work: Work, *, recompute: bool) -> None:
    def smallest(shape: Shape, strategy: str, generates: bool) -> str:
        for gpus in (1, 2, 4, *range(8, 1025, 8)):
            parts = roofline.memory(shape, strategy, gpus, work, recompute=recompute, generates=generates)
            if roofline.fits(shape, strategy, gpus, parts, machine):
                return str(gpus)
        return DOES_NOT_FIT

    common.print_table(
        "**The fewest GPUs that hold it** (1, 2, 4 or whole nodes): with a served teacher / with its own",
        ("", *STRATEGIES),
        [
            (name, *(f"{smallest(shape, s, False)} / {smallest(shape, s, True)}" for s in STRATEGIES))
            for name, shape in shapes.items()
        ],
    )


def print_compared(*, quick: bool) -> list[dict[str, Any]]:
    from benchmarks._scaling_measured import SMALL, all_compared

    names = list(SMALL)[:1] if quick else list(SMALL)
    found = all_compared(names)
    cells = {(c.what, c.model): f"{c.measured:,} ({difference(c.deviation)})" for c in found}
    whats = list(dict.fromkeys(c.what for c in found))
    common.print_table(
        "**Counted on small models**, and in brackets by how much the formula differs",
        ("", *names),
        [(what, *(cells[what, name] for name in names)) for what in whats],
    )
    return [asdict(c) for c in found]


def difference(deviation: float) -> str:
    return f"{deviation:+.1%}" if deviation else "exact"


def billions(count: float) -> str:
    value = count / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
