"""An optimizer step: ours at two row lengths, FlexAttention packing, PEFT's example. Same conversations, same cartridge."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks._flex_packing import FlexSide
from benchmarks._gpu_part import Part, Timing
from benchmarks._models import random_conversations, random_prefix
from benchmarks._training_sides import OurSide, PeftSide
from lit_cartridges.estimates import counts
from lit_cartridges.estimates.shapes import Row

_FLEX, _PEFT = "FlexAttention packing", "PEFT's example, padded"


def measure(part: Part) -> None:
    """FLOPs are those that a step needs (`estimates.counts`, nothing recomputed), whatever a side spends."""
    card = part.card
    num_tokens, row_tokens = card.pick(2048, 16), card.pick(8192, 128)
    # 24 conversations of 341 tokens on average fill 8,192; the tiny mode's eight fill 128.
    count, shortest, longest = card.pick((24, 128, 554), (8, 8, 24))
    examples = random_conversations(
        count, vocabulary=card.model.config.vocab_size, shortest=shortest, longest=longest
    )
    lengths = tuple(len(e.token_ids) for e in examples)
    answers = sum(len(e.target_ids) for e in examples)
    work = Row(lengths=lengths, answers=answers, prefix_tokens=num_tokens, recompute=False)
    flops = counts.forward_flops(card.shape, work) + counts.backward_flops(card.shape, work)

    torch.manual_seed(1)
    prefix = random_prefix(card.model, num_tokens)
    ours, short = f"ours, rows of {row_tokens:,}", f"ours, rows of {row_tokens // 4:,}"
    makers = {
        ours: lambda: OurSide(card.model, num_tokens, prefix, row_tokens),
        short: lambda: OurSide(card.model, num_tokens, prefix, row_tokens // 4),
        _FLEX: lambda: FlexSide(card.model, prefix),
        _PEFT: lambda: PeftSide(card.model, num_tokens, prefix, count),
    }
    sides: dict[str, Any] = {}
    for name, maker in makers.items():
        if name == _FLEX and card.device == "cpu":
            part.miss(name, "FlexAttention has no backward pass on a CPU")
            continue
        with part.trying(name):
            sides[name] = maker()
    _agree(part, sides, examples)

    def report(name: str, timing: Timing) -> None:
        _row(part, name, timing, tokens=sum(lengths), answers=answers, flops=flops)

    steps = {name: (lambda side=side: side.step(examples)) for name, side in sides.items()}
    timings = part.race(steps, report, repeats=5, warm_ups=2)
    for peer, wanted in ((_FLEX, 1.5), (_PEFT, 3.0)):
        if {ours, peer} <= set(timings):
            part.ratio(
                f"{peer}: its time ÷ ours", timings[peer].median_s / timings[ours].median_s, wanted=wanted
            )


def _agree(part: Part, sides: dict[str, Any], examples: Any) -> None:
    """Sides whose losses are not ours do other work: they are left out."""
    expected = None
    for name, side in list(sides.items()):
        with part.trying(name):
            losses = side.answer_losses(examples).float()
            expected = losses if expected is None else expected
            difference = (losses - expected).abs().max().item()
            if not difference < (1e-3 if part.card.dtype == torch.float32 else 0.3):
                raise AssertionError(f"its losses differ from ours by {difference:.3g} nats")
        if name in part.missing:
            del sides[name]


def _row(part: Part, name: str, timing: Timing, *, tokens: int, answers: int, flops: int) -> None:
    card, rate = part.card, flops / timing.median_s
    part.row(
        name,
        step_s=timing.median_s,
        answer_tokens_per_s=answers / timing.median_s,
        tokens_per_s=tokens / timing.median_s,
        datasheet_share=rate / card.datasheet_per_s if card.datasheet_per_s else None,
        products_share=rate / card.products_per_s if card.products_per_s else None,
        peak_bytes=timing.peak_bytes,
        repeats=len(timing.seconds),
    )
