"""Every figure of one card in one call of at most eight minutes: `make bench-gpu`.

Parts, each with a budget of seconds that it keeps; what did not fit it is named:
- limits: what the card does at best, matrix products of the model's shapes, copies, launches;
- training: an optimizer step behind a cartridge of 2,048 positions, against FlexAttention packing and PEFT's example;
- generation: self-study in process, against batched `generate`;
- prefill: reading 8k to 131k tokens, against SDPA in one pass;
- cascade: one layer and a whole model, against flash attention 2 and cuDNN;
- serving: the largest batch with the corpus in a cache per row, a cartridge per row, one cartridge for all.

The model has the shape of Llama-3.2-3B (one layer of Llama-3.1-8B for the cascade) and random weights, built on the device:
nothing is downloaded. Every figure is printed when it is known; the table comes at the end, and --json is written after every
part. An error, memory that runs out, or a budget that is over ends one measurement or one part, is said, and the next goes on.
Without a card, sizes are tiny (--tiny) and the figures mean nothing. --page docs/gpu.md writes the tables into that page, at once
or later: --of runs/bench/gpu_figures.json --page docs/gpu.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

from benchmarks import _common as common
from benchmarks import (
    _gpu_cascade,
    _gpu_generation,
    _gpu_limits,
    _gpu_prefill,
    _gpu_serving,
    _gpu_training,
)
from benchmarks._gpu_card import Card
from benchmarks._gpu_page import fill, tables
from benchmarks._gpu_part import Part, run_part

# The measuring, and its seconds: together less than the eight minutes, with the start.
PARTS: dict[str, tuple[Callable[[Part], None], float]] = {
    "limits": (_gpu_limits.measure, 30.0),
    "training": (_gpu_training.measure, 85.0),
    "generation": (_gpu_generation.measure, 85.0),
    "prefill": (_gpu_prefill.measure, 60.0),
    "cascade": (_gpu_cascade.measure, 85.0),
    "serving": (_gpu_serving.measure, 85.0),
}


def main(
    argv: list[str] | None = None, *, parts: Mapping[str, tuple[Callable[[Part], None], float]] = PARTS
) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="in the order given")
    parser.add_argument(
        "--tiny",
        action=argparse.BooleanOptionalAction,
        help="sizes for a CPU: does it run, not how fast; the default without a card, and what --quick means",
    )
    parser.add_argument("--budget-s", type=float, help="of every part, instead of its own")
    parser.add_argument("--total-s", type=float, default=460.0, help="of all parts together")
    parser.add_argument(
        "--page", type=Path, metavar="PATH", help="put the tables between this page's markers"
    )
    parser.add_argument(
        "--of", type=Path, metavar="JSON", help="measure nothing; the figures are those of this file"
    )
    args = parser.parse_args(argv)
    if args.of is not None:
        figures = json.loads(args.of.read_text())
        print(*tables(figures["results"]), sep="\n")
        if args.page:
            fill(args.page, figures)
        return figures
    if args.tiny is None:
        args.tiny = args.quick or args.device == "cpu"
    begun = time.perf_counter()
    facts = common.begin(args)
    common.headline(facts)
    card = Card(args.device, args.tiny)
    done: list[Part] = []
    for name in args.parts:
        measure, budget_s = parts[name]
        left_s = args.total_s - (time.perf_counter() - begun)
        with _quiet():
            done.append(run_part(name, measure, card, max(0.0, min(args.budget_s or budget_s, left_s))))
        figures = common.finish(
            args,
            {
                **facts,
                "tiny": args.tiny,
                "seconds": time.perf_counter() - begun,
                "results": {part.name: part.report for part in done},
            },
        )
    print("", *tables(figures["results"]), sep="\n")
    print(f"{figures['seconds']:.0f} s in all.")
    if args.page:
        fill(args.page, figures)
    return figures


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers warns of random models' settings in every call."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


if __name__ == "__main__":
    main()
