"""Seconds and bytes per question: the corpus in the context (ICL) against a cartridge of it.

Four ways to answer a question about a corpus:
- ICL: read the corpus, then the question, and answer. The question pays for the corpus;
- ICL, prefill kept: the corpus was read before; its keys and values stay in memory;
- a cartridge of a tenth of the corpus; a cartridge of a fixed length.
The last three differ in nothing but the length of the prefix, so the same code answers them: all rows of a batch read
one prefix, which is never copied (`lit_cartridges.generation.generate_from_prefix`).

Bytes are those of keys and values: the prefix once per batch, and each row's question and answer. "rows, unshared" is
the largest batch of an engine that holds a prefix per row, within the same --memory-bytes.

The second table is tokens per second of the largest batch that fits, and what a cartridge 38.6 times shorter than the corpus
makes of it: held per row, as the paper's engine holds it (26.4 times at its best), and held once for all rows.
Protocol of arXiv 2506.06266: 128 tokens, 3 warm-ups, mean and deviation of 5 (fewer with --quick and on a CPU).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import _common as common
from benchmarks._models import SIZES, kv_bytes_per_token, random_llama, random_prefix
from benchmarks._plots import loglog_plot
from benchmarks._serving_rows import COMPRESSION, PAPERS_RATIO, WAYS, ratios, throughput
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate_from_prefix


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, help="the model; 5m on the CPU and 3b on a GPU by default")
    parser.add_argument(
        "--corpus-tokens", type=int, nargs="+", help="1k to 32k by default; 8k, 32k and 120k on a GPU"
    )
    parser.add_argument("--cartridge-tokens", type=int, help="the fixed length")
    parser.add_argument("--question-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, help="decoded per question (the paper's protocol: 128)")
    parser.add_argument(
        "--memory-bytes",
        type=int,
        help="for the largest batch; on a GPU 40 GiB by default, in the second table all that is free",
    )
    parser.add_argument(
        "--max-rows",
        type=int,
        help="a batch is never larger; on a GPU 512 by default, in the second table 4,096",
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("questions", "largest"),
        default=["questions", "largest"],
        help="the tables",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="plot the second table to this file (.svg, .png, …)"
    )
    parser.add_argument("--warm-ups", type=int)
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    args.size = args.size or ("tiny" if args.quick else "3b" if cuda else "5m")
    if args.corpus_tokens is None:
        lengths = [8192, 32768, 120_000] if cuda else [1024, 4096, 16384, 32768]
        args.corpus_tokens = [128, 512] if args.quick else lengths
    args.cartridge_tokens = args.cartridge_tokens or (32 if args.quick else 512)
    args.new_tokens = args.new_tokens or (8 if args.quick else 128 if cuda else 32)
    free_bytes, most_rows = args.memory_bytes, args.max_rows
    args.memory_bytes = args.memory_bytes or (2**20 if args.quick else 40 * 2**30 if cuda else 256 * 2**20)
    args.max_rows = args.max_rows or (8 if args.quick else 512 if cuda else 16)
    most_rows = most_rows or (4096 if cuda else args.max_rows)
    args.warm_ups = args.warm_ups if args.warm_ups is not None else (0 if args.quick else 3 if cuda else 1)
    args.repeats = args.repeats or (1 if args.quick else 5 if cuda else 3)
    facts = common.begin(args)
    common.headline(facts)
    model = random_llama(args.size, device=args.device, dtype=torch.bfloat16 if cuda else torch.float32)
    figures: dict[str, Any] = {**facts, "results": [], "throughput": []}
    if "questions" in args.parts:
        figures["results"] = [row for tokens in args.corpus_tokens for row in _measure(args, model, tokens)]
        _print_questions(args, figures["results"])
        common.finish(args, figures)  # the next part may take an hour
    if "largest" in args.parts:
        common.free_memory()
        free_bytes = free_bytes or (common.free_bytes() if cuda else args.memory_bytes)
        for rows in _throughput(args, model, free_bytes, most_rows):
            figures["throughput"] += rows
            common.finish(args, figures)
        _print_throughput(args, figures["throughput"], free_bytes, most_rows)
        if args.plot:
            _plot(args, figures["throughput"])
    return common.finish(args, figures)


def _print_questions(args: Any, results: list[dict[str, Any]]) -> None:
    common.print_table(
        f"**A question**: {args.size} Llama, question of {args.question_tokens} tokens, {args.new_tokens} decoded; "
        f"{common.clock_of(args.device)} seconds, mean of {args.repeats} after {args.warm_ups} warm-ups; MiB of keys and "
        f"values; the largest batch in {args.memory_bytes / 2**20:,.0f} MiB, at most {args.max_rows} rows: with one prefix "
        "for all rows (s/question, MiB/question), and with one per row. Last two columns: how many times less than ICL at "
        "batch 1.",
        ("corpus", "way", "prefix", "s, batch 1", "MiB, batch 1", "rows", "s/question", "MiB/question")
        + ("rows, unshared", "÷ ICL s", "÷ ICL MiB"),
        [
            (
                f"{r['corpus_tokens']:,}",
                r["way"],
                f"{r['prefix_tokens']:,}",
                f"{r['batch_1_s']:.3f}",
                common.megabytes(r["batch_1_bytes"]),
                r["rows"] if r["rows"] else "none",
                f"{r['question_s']:.4f}" if r["rows"] else "–",
                common.megabytes(r["question_bytes"]) if r["rows"] else "–",
                r["rows_unshared"],
                f"{r['icl_times_s']:.1f}",
                f"{r['icl_times_bytes']:.1f}",
            )
            for r in results
        ],
    )


def _throughput(args: Any, model: Any, free_bytes: int, most_rows: int) -> Iterator[list[dict[str, Any]]]:
    """Of each corpus, a row per way."""
    for corpus in args.corpus_tokens:
        found: list[dict[str, Any]] = []
        rates: dict[str, float] = {}
        for way, (compression, held_by) in WAYS.items():
            common.progress(f"corpus of {corpus:,}, {way}: the largest batch")
            batch = throughput(
                model,
                held_by,
                held=max(1, round(corpus / compression)),
                new_tokens=args.new_tokens,
                free_bytes=free_bytes,
                max_rows=most_rows,
                warm_ups=args.warm_ups,
                runs=args.repeats,
            )
            found.append({"corpus_tokens": corpus, "way": way, **(asdict(batch) if batch else {"rows": 0})})
            if batch:
                rates[way] = batch.tokens_per_s
                common.progress(
                    f"corpus of {corpus:,}, {way}: {batch.rows} rows, {batch.tokens_per_s:,.0f} tokens/s"
                )
        by_way = ratios(rates)
        for row in found:
            row["times_corpus"] = by_way.get(f"{row['way']} ÷ corpus")
        yield found


def _print_throughput(args: Any, found: list[dict[str, Any]], free_bytes: int, most_rows: int) -> None:
    common.print_table(
        f"**Tokens per second of the largest batch**: {args.size} Llama, {args.new_tokens} tokens decoded, mean and deviation "
        f"of {args.repeats} after {args.warm_ups} warm-ups, by {common.clock_of(args.device)} seconds, "
        f"{free_bytes / 2**20:,.0f} MiB, at most {most_rows:,} rows. A cartridge is {COMPRESSION} times shorter than its "
        f"corpus; the paper's ratio is {PAPERS_RATIO} at its best.",
        ("corpus", "way", "tokens held", "rows", "MiB", "tokens/s", "±", "÷ corpus"),
        [
            (f"{r['corpus_tokens']:,}", r["way"], "–", "none", "–", "–", "–", "–")
            if not r["rows"]
            else (
                f"{r['corpus_tokens']:,}",
                r["way"],
                f"{r['held_tokens']:,}",
                r["rows"],
                common.megabytes(r["cache_bytes"]),
                f"{r['tokens_per_s']:,.0f}",
                "–" if r["deviation_per_s"] is None else f"{r['deviation_per_s']:,.0f}",
                "–" if r["times_corpus"] is None else f"{r['times_corpus']:.1f}",
            )
            for r in found
        ],
    )


def _plot(args: Any, found: list[dict[str, Any]]) -> None:
    lines = {
        way: [
            (row["corpus_tokens"], row["tokens_per_s"]) for row in found if row["way"] == way and row["rows"]
        ]
        for way in WAYS
    }
    loglog_plot(
        args.plot,
        {
            f"{args.size} Llama, the largest batch": {
                way: tuple(zip(*x, strict=True)) for way, x in lines.items() if x
            }
        },
        x="tokens of the corpus",
        y="tokens per second",
    )


@torch.no_grad()
def _measure(args: Any, model: Any, corpus_tokens: int) -> list[dict[str, Any]]:
    corpus = torch.randint(3, model.config.vocab_size, (corpus_tokens,), device=args.device)
    per_token, own_tokens = kv_bytes_per_token(model), args.question_tokens + args.new_tokens
    clock = common.clock_of(args.device)
    lengths = {
        "ICL": corpus_tokens,
        "ICL, prefill kept": corpus_tokens,
        "cartridge, a tenth": max(1, corpus_tokens // 10),
        f"cartridge, {args.cartridge_tokens}": args.cartridge_tokens,
    }
    common.progress(f"corpus of {corpus_tokens:,} tokens: reading it")
    kept: Any = None

    def read() -> None:
        nonlocal kept
        kept = prefill(model, corpus)

    first = common.timed(read, args.device)
    # Reading a long corpus takes minutes on a CPU, so there the first reading is the one that counts.
    repeats = 0 if args.device == "cpu" and corpus_tokens > 8192 else args.repeats
    again = common.alternate(
        {"reading": lambda: prefill(model, corpus)}, repeats=repeats, device=args.device
    )["reading"]
    reading_s = statistics.mean(getattr(s, f"{clock}_s") for s in again or [first])
    rows: list[dict[str, Any]] = []
    for way, prefix_tokens in lengths.items():
        if way == "ICL":
            continue  # reading + the kept prefill's answer, below
        prefix = (
            kept if prefix_tokens == corpus_tokens else _as_model(random_prefix(model, prefix_tokens), model)
        )
        fitting = (args.memory_bytes // per_token - prefix_tokens) // own_tokens
        unshared = args.memory_bytes // per_token // (prefix_tokens + own_tokens)
        largest = max(0, min(args.max_rows, fitting))
        seconds = {1: _answer_s(args, model, prefix, 1, clock)}
        while largest > 1:
            try:
                seconds[largest] = _answer_s(args, model, prefix, largest, clock)
                break
            except (RuntimeError, MemoryError) as error:
                if not common.out_of_memory(error):
                    raise
            common.free_memory()
            largest //= 2
        figures = {
            "corpus_tokens": corpus_tokens,
            "prefix_tokens": prefix_tokens,
            "batch_1_bytes": per_token * (prefix_tokens + own_tokens),
            "rows": largest,
            "rows_unshared": min(args.max_rows, unshared),
            "question_bytes": per_token * (prefix_tokens / largest + own_tokens) if largest else None,
        }
        if way == "ICL, prefill kept":
            rows.append(
                {
                    "way": "ICL",
                    **figures,
                    "batch_1_s": reading_s + seconds[1],
                    "question_s": (reading_s + seconds[largest]) / largest if largest else None,
                }
            )
        rows.append(
            {
                "way": way,
                **figures,
                "batch_1_s": seconds[1],
                "question_s": seconds[largest] / largest if largest else None,
            }
        )
    icl = rows[0]
    for row in rows:
        row["icl_times_s"] = icl["batch_1_s"] / row["batch_1_s"]
        row["icl_times_bytes"] = icl["batch_1_bytes"] / row["batch_1_bytes"]
        common.progress(f"corpus of {corpus_tokens:,}, {row['way']}: {row['batch_1_s']:.2f} s at batch 1")
    return rows


def _answer_s(args: Any, model: Any, prefix: Any, rows: int, clock: str) -> float:
    """Mean seconds of one batch of questions."""
    ids = torch.randint(3, model.config.vocab_size, (rows, args.question_tokens), device=args.device)

    def answer() -> None:
        out = generate_from_prefix(
            model, *prefix, ids, max_new_tokens=args.new_tokens, do_sample=False, pad_token_id=0
        )
        assert out.shape[1] == args.question_tokens + args.new_tokens

    name = f"prefix of {prefix[0][0].shape[1]:,}, {rows} row(s)"
    samples = common.alternate(
        {name: answer}, repeats=args.repeats, warm_ups=args.warm_ups, device=args.device
    )[name]
    return statistics.mean(getattr(s, f"{clock}_s") for s in samples)


def _as_model(prefix: Any, model: Any) -> Any:
    return tuple([x.to(model.dtype) for x in side] for side in prefix)


if __name__ == "__main__":
    main()
