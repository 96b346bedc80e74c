"""An optimizer step: ours at two row lengths, FlexAttention packing, PEFT's example. Same conversations, same cartridge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

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
    makers: dict[str, Callable[[], Any]] = {
        ours: lambda: OurSide(card.model, num_tokens, prefix, row_tokens),
        short: lambda: OurSide(card.model, num_tokens, prefix, row_tokens // 4),
        _FLEX: lambda: FlexSide(card.model, prefix),
        _PEFT: lambda: PeftSide(card.model, num_tokens, prefix, count),
    }
    if card.device == "cpu":
        part.miss(_FLEX, "FlexAttention has no backward pass on a CPU")
        del makers[_FLEX]
    expected: list[Tensor] = []

    def report(name: str, timing: Timing) -> None:
        _row(part, name, timing, tokens=sum(lengths), answers=answers, flops=flops)

    # Ours first, and the peer that compiles last: what a slow start costs, it costs itself.
    timings: dict[str, Timing] = {}
    for names in ((ours, short), (_PEFT,), (_FLEX,)):
        racing = {name: maker for name, maker in makers.items() if name in names}
        timings |= _race(part, racing, examples, expected, report)
    if ours in timings:
        rate = flops / timings[ours].median_s
        card.trained_tokens_per_s = sum(lengths) / timings[ours].median_s
        for what, limit, wanted in (
            ("the datasheet's rate", card.datasheet_per_s, 0.45),
            ("measured products", card.products_per_s, 0.6),
        ):
            part.share(f"{ours}: share of {what}", rate / limit if limit else None, wanted=wanted)
    for peer, wanted in ((_FLEX, 1.5), (_PEFT, 3.0)):
        if {ours, peer} <= set(timings):
            mine, theirs = timings[ours], timings[peer]
            part.ratio(f"{peer}: its time ÷ ours", theirs.median_s / mine.median_s, wanted=wanted)
            part.ratio(
                f"{peer}: its peak memory ÷ ours", theirs.peak_bytes / max(1.0, mine.peak_bytes), wanted=1.0
            )


def _race(
    part: Part,
    makers: Mapping[str, Callable[[], Any]],
    examples: Any,
    expected: list[Tensor],
    report: Callable[[str, Timing], None],
) -> dict[str, Timing]:
    """Sides whose losses are not ``expected``, which the first of all sides writes, do other work: they are left out."""
    steps: dict[str, Callable[[], Any]] = {}
    for name, maker in makers.items():
        with part.trying(name):
            side = maker()
            losses = side.answer_losses(examples).float()
            if not expected:
                expected.append(losses)
            difference = (losses - expected[0]).abs().max().item()
            if not difference < (1e-3 if part.card.dtype == torch.float32 else 0.3):
                raise AssertionError(f"its losses differ from ours by {difference:.3g} nats")
            steps[name] = partial(side.step, examples)
    return part.race(steps, report, repeats=5, warm_ups=2)


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
