"""Self-study in process: `LocalTeacher` against batched `generate`, same conversations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks._generation_ways import BATCHED, OURS, Conversations, together
from benchmarks._gpu_part import Part, Timing


def measure(part: Part) -> None:
    """Chunks of 2,048, questions of 32 and answers of 256 tokens, prompts of unequal length."""
    card = part.card
    rows, more, groups = card.pick((64, 256, 4), (4, 8, 2))

    def conversations(count: int, *, short: bool = False, max_rows: int = 64) -> Conversations:
        return Conversations(
            card.model,
            chunk_tokens=card.pick(2048, 32),
            count=count,
            question_tokens=2 if short else card.pick(32, 3),
            answer_tokens=2 if short else card.pick(256, 6),
            prompt_tokens=card.pick((16, 40), (3, 6)),
            max_rows=max_rows,
        )

    warm = conversations(rows, short=True)
    for name, call in {OURS: warm.ours, BATCHED: warm.batched}.items():
        with part.trying(f"{name}, warm-up"):
            call()

    def report(count: int, new_tokens: int) -> Callable[[str, Timing], None]:
        return lambda name, timing: _row(part, name, timing, count, new_tokens)

    one = conversations(rows)
    about = f"{rows} conversations about 1 chunk"
    ours, batched = f"{OURS}, {about}", f"{BATCHED}, {about}"
    kept: dict[str, list[list[int]]] = {}
    timings = part.race(
        {
            ours: lambda: kept.update(ours=one.ours()),
            batched: lambda: kept.update(batched=one.batched()),
        },
        report(rows, one.new_tokens),
        repeats=2,
        warm_ups=0,
    )
    if set(timings) == {ours, batched}:
        pairs = list(zip(kept["ours"], kept["batched"], strict=True))
        part.row("conversations that agree", same_share=sum(a == b for a, b in pairs) / rows)
        part.ratio(f"{BATCHED}: its time ÷ ours", timings[batched].median_s / timings[ours].median_s)

    # More rows in a step take no less than the first; chunks of a batch are read one after the other.
    known_s = timings[ours].median_s if ours in timings else 0.0
    best = _per_s(timings[ours], rows) if ours in timings else 0.0
    for total, chunks in ((rows, groups), (more, 1), (more, groups)):
        several = [conversations(total // chunks, max_rows=total) for _ in range(chunks)]
        name = f"{OURS}, {total} conversations about {chunks} chunk{'s' * (chunks > 1)}"
        found = part.race(
            {name: partial(together, several)},
            report(total, sum(group.new_tokens for group in several)),
            repeats=1,
            warm_ups=0,
            expected_s={name: known_s},
        )
        best = max([best, *(_per_s(timing, total) for timing in found.values())])
    part.miss("share of vLLM's tokens a second, wanted 50%", "needs a server: benchmarks.openai_teacher")
    if best and card.trained_tokens_per_s:
        trained_per_s = card.trained_tokens_per_s / one.tokens_of_one
        part.share(
            "generating, of generating and training conversations used once",
            trained_per_s / (trained_per_s + best),
            at_most=0.5,
        )


def _per_s(timing: Timing, count: int) -> float:
    return count / timing.median_s


def _row(part: Part, name: str, timing: Timing, count: int, new_tokens: int) -> None:
    part.row(
        name,
        conversations_per_s=count / timing.median_s,
        new_tokens_per_s=new_tokens / timing.median_s,
        seconds=timing.median_s,
        ms_per_token_of_a_row=1e3 * timing.median_s * count / new_tokens,
        peak_bytes=timing.peak_bytes,
        repeats=len(timing.seconds),
    )
