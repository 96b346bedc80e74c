"""Conversations per second of the in-process teacher against plain `generate`; where a whole run's time goes.

Every conversation is a question and an answer of fixed lengths about one chunk. Three ways, same model, greedy
(`_generation_ways`): `LocalTeacher`; one `model.generate` per conversation and role, the chunk in each prompt; one batched
`model.generate` per role, the chunk repeated in every row. The tokens must agree, which is checked first. The peers take no
log-probabilities; ours takes 20 per answer token. One by one, only so many as --one-by-one says are made, and their time is
counted for all. The second table has conversations about several chunks, in one batch and chunk by chunk.

The last table is a real training run (LitCartridge, SelfStudyDataModule, Lightning's Trainer) on the bundled model,
or on a random one of its kind where the bundled model is absent.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import _common as common
from benchmarks._generation_ways import BATCHED, OURS, SINGLE, Conversations, together
from benchmarks._models import SIZES, random_llama


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = common.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, help="the model; 5m on the CPU and 3b on a GPU by default")
    parser.add_argument(
        "--chunk-tokens", type=int, nargs="*", help="512 and 2,048 by default; none: the run only"
    )
    parser.add_argument("--conversations", type=int, help="about one chunk")
    parser.add_argument("--one-by-one", type=int, help="conversations that are; all on the CPU, 1 on a GPU")
    parser.add_argument("--question-tokens", type=int, default=32)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--steps", type=int, help="optimizer steps of the whole training run; 0 leaves it out"
    )
    args = parser.parse_args(argv)
    cuda = args.device == "cuda"
    args.size = args.size or ("tiny" if args.quick else "3b" if cuda else "5m")
    if args.chunk_tokens is None:
        args.chunk_tokens = [128, 256] if args.quick else [512, 2048]
    args.conversations = args.conversations or (4 if args.quick else 64 if cuda else 8)
    args.one_by_one = min(args.conversations, args.one_by_one or (1 if cuda else args.conversations))
    args.repeats = args.repeats or (1 if args.quick else 3 if cuda else 2)
    args.steps = args.steps if args.steps is not None else (3 if args.quick else 32)
    if args.quick:
        args.question_tokens, args.answer_tokens = min(args.question_tokens, 8), min(args.answer_tokens, 16)
    facts = common.begin(args)
    common.headline(facts)
    model = random_llama(args.size, device=args.device, dtype=torch.bfloat16 if cuda else torch.float32)
    results = [_measure(args, model, tokens) for tokens in args.chunk_tokens]
    if results:
        _print_conversations(args, results)
    several = _measure_chunks(args, model, args.chunk_tokens[0]) if results else {}
    split = _training_run(args) if args.steps else {}
    return common.finish(
        args, {**facts, "results": results, "several_chunks": several, "training_run": split}
    )


def _print_conversations(args: Any, results: list[dict[str, Any]]) -> None:
    common.print_table(
        f"**Conversations**: {args.size} Llama, {args.conversations} about one chunk, question of "
        f"{args.question_tokens} and answer of {args.answer_tokens} tokens; rates by "
        f"{common.clock_of(args.device)} seconds, median of {args.repeats}.",
        ("", "chunk tokens", "conversations/s", "s wall", "s CPU", "× ours wall", "× ours CPU"),
        [
            (
                name,
                f"{r['chunk_tokens']:,}",
                f"{way['conversations_per_s']:.2f}",
                f"{way['wall_s']:.2f}",
                f"{way['cpu_s']:.2f}",
                f"{way['times_ours_wall']:.2f}",
                f"{way['times_ours_cpu']:.2f}",
            )
            for r in results
            for name, way in r["ways"].items()
        ],
    )


def _measure(args: Any, model: Any, chunk_tokens: int) -> dict[str, Any]:
    # The seed prompts differ in length no more than the paper's do: a few tokens.
    conversations = Conversations(
        model,
        chunk_tokens=chunk_tokens,
        count=args.conversations,
        question_tokens=args.question_tokens,
        answer_tokens=args.answer_tokens,
    )
    ways: dict[str, Callable[[], Any]] = {
        OURS: conversations.ours,
        BATCHED: conversations.batched,
        SINGLE: lambda: conversations.single(args.one_by_one),
    }
    found = {OURS: conversations.ours(), BATCHED: conversations.batched()}
    conversations.single(1)
    tokens = [len(row) for row in found[OURS]]
    assert set(tokens) == {args.question_tokens + len(conversations.marker) + args.answer_tokens}, (
        "a reply ended early"
    )
    # Greedy ties of a random model may fall either way; most conversations must agree.
    same = sum(a == b for a, b in zip(found[OURS], found[BATCHED], strict=True)) / len(tokens)
    common.progress(
        f"chunk of {chunk_tokens}: {same:.0%} of the conversations are the same in both batched ways"
    )
    if args.device == "cpu" and same < 0.75:
        raise AssertionError(f"only {same:.0%} of the conversations agree: the ways do not do the same work")
    samples = common.alternate(ways, repeats=args.repeats, device=args.device)
    times = args.conversations / args.one_by_one
    samples[SINGLE] = [common.Sample(s.wall_s * times, s.cpu_s * times) for s in samples[SINGLE]]
    clock = common.clock_of(args.device)
    return {
        "chunk_tokens": chunk_tokens,
        "same_conversations": same,
        "ways": {
            name: {
                "wall_s": common.median_s(s, "wall"),
                "cpu_s": common.median_s(s, "cpu"),
                "conversations_per_s": args.conversations / common.median_s(s, clock),
                "times_ours_wall": common.ratio(s, samples[OURS], "wall"),
                "times_ours_cpu": common.ratio(s, samples[OURS], "cpu"),
            }
            for name, s in samples.items()
        },
    }


def _measure_chunks(args: Any, model: Any, chunk_tokens: int) -> dict[str, Any]:
    """The same conversations about several chunks, in one batch and chunk by chunk."""
    several = [
        Conversations(
            model,
            chunk_tokens=chunk_tokens,
            count=max(2, args.conversations // 4),
            question_tokens=args.question_tokens,
            answer_tokens=args.answer_tokens,
            prompt_tokens=(16, 32),
        )
        for _ in range(4)
    ]
    ways: dict[str, Callable[[], Any]] = {
        "in one batch": lambda: together(several),
        "chunk by chunk": lambda: [each.ours() for each in several],
    }
    found = [way() for way in ways.values()]
    same = sum(a == b for x, y in zip(*found, strict=True) for a, b in zip(x, y, strict=True))
    count = sum(each.count for each in several)
    if args.device == "cpu" and same < 0.75 * count:
        raise AssertionError(f"only {same} of {count} conversations agree: the ways do not do the same work")
    samples = common.alternate(ways, repeats=args.repeats, device=args.device)
    clock, first = common.clock_of(args.device), samples["in one batch"]
    rates = {name: count / common.median_s(s, clock) for name, s in samples.items()}
    common.print_table(
        f"**LocalTeacher, {len(several)} chunks of {chunk_tokens:,} tokens**: {args.size} Llama, "
        f"{several[0].count} conversations about each, prompts of 16 to 32 tokens; rates by {clock} seconds, median of "
        f"{args.repeats}.",
        ("", "conversations/s", "× one batch, wall", "× one batch, CPU"),
        [
            (name, f"{rates[name]:.2f}", *(f"{common.ratio(s, first, by):.2f}" for by in ("wall", "cpu")))
            for name, s in samples.items()
        ],
    )
    return {"chunks": len(several), "chunk_tokens": chunk_tokens, "conversations_per_s": rates}


def _training_run(args: Any) -> dict[str, Any]:
    import lightning as L

    from lit_cartridges.data import SelfStudy, SelfStudyDataModule
    from lit_cartridges.module import LitCartridge
    from lit_cartridges.pocket import SEED_PROMPTS, World, model_path

    class Clock(L.Callback):
        """Seconds inside training batches and optimizer steps."""

        def __init__(self) -> None:
            self.training_s, self.tokens, self.answers = 0.0, 0, 0
            self.counts: dict[str, float] = {}

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.training_s += time.perf_counter() - self.started
            self.tokens += batch.input_ids.numel()
            self.answers += len(batch.target_rows)
            self.counts = batch.counts

    with tempfile.TemporaryDirectory() as folder:
        bundled = (model_path() / "config.json").exists()
        name = "package:lit_cartridges.pocket/model" if bundled else _random_pocket(Path(folder) / "model")
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text(World(seed=7, held_out=True).corpus(1500).text)
        clock = Clock()
        which = "the bundled model" if bundled else "a random model of the bundled kind"
        common.progress(f"a training run of {args.steps} steps on {which}")
        trainer = L.Trainer(
            accelerator="gpu" if args.device == "cuda" else "cpu",
            devices=1,
            max_steps=args.steps,
            logger=False,
            callbacks=[clock],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        module = LitCartridge(model=name, num_tokens=150)
        data = SelfStudyDataModule(
            corpus=str(corpus),
            source=SelfStudy(
                seed_prompts=SEED_PROMPTS,
                min_chunk_tokens=128,
                max_chunk_tokens=512,
                conversations_per_group=8 if args.quick else 32,
                question_temperature=1.0,
                question_max_tokens=24,
                answer_max_tokens=32,
            ),
            groups_per_round=1 if args.quick else 8,
            uses=2,
            tokens_per_batch=256 if args.quick else 2048,
        )
        started = time.perf_counter()
        trainer.fit(module, data)
        whole = time.perf_counter() - started
    generating = clock.counts["generating_s"]
    parts = {
        "generating": generating,
        "training": clock.training_s,
        "the rest": whole - generating - clock.training_s,
    }
    common.print_table(
        f"**A whole run**: {which}, cartridge of 150 tokens, corpus of 1,500, {args.steps} optimizer steps "
        f"({clock.tokens:,} tokens, {clock.answers:,} answers, each conversation used twice), "
        f"{clock.counts['conversations']:.0f} conversations made; wall seconds.",
        ("part", "s", "share"),
        [(part, f"{s:.1f}", f"{s / whole:.1%}") for part, s in parts.items()],
    )
    return {
        "bundled_model": bundled,
        "steps": args.steps,
        "wall_s": parts,
        "tokens": clock.tokens,
        "answer_tokens": clock.answers,
        "counts": clock.counts,
    }


def _random_pocket(folder: Path) -> str:
    """A random model with the pocket tokenizer, for where the bundled one is not."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from lit_cartridges.pocket.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


if __name__ == "__main__":
    main()
