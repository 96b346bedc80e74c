"""Self-study in process: `LocalTeacher` against batched `generate`, same conversations."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks._generation_ways import BATCHED, OURS, Conversations
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
    about = f"{rows} conversations about one chunk"
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

    # More rows in a step, and the same rows in turns, take no less than the first.
    known_s = timings[ours].median_s if ours in timings else 0.0
    large = conversations(more, max_rows=more)
    name = f"{OURS}, {more} conversations about one chunk"
    part.race(
        {name: large.ours},
        report(more, large.new_tokens),
        repeats=1,
        warm_ups=0,
        expected_s={name: known_s},
    )
    several = [conversations(rows // groups) for _ in range(groups)]
    name = f"{OURS}, {rows // groups} conversations about each of {groups} chunks"
    part.race(
        {name: lambda: [group.ours() for group in several]},
        report(rows, sum(group.new_tokens for group in several)),
        repeats=1,
        warm_ups=0,
        expected_s={name: known_s},
    )


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
