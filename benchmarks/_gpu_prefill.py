"""Reading a long corpus: `prefill`, which a cartridge's start and ICL baselines use, against SDPA in one pass."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks._gpu_part import Part, Timing
from benchmarks.cascade_prefill import read_dense
from lit_cartridges.attention.prefill import prefill

_SDPA = "SDPA in one pass"


def measure(part: Part) -> None:
    """Each length with its ratio; a length is left out where the one before says that it would not fit the budget."""
    card = part.card
    last: dict[str, float] = {}
    peaks: dict[int, float] = {}
    for tokens in card.pick((8192, 32768, 131072), (64, 256)):
        ids = torch.randint(0, card.model.config.vocab_size, (1, tokens), device=card.device)
        ours, dense = f"prefill, {tokens:,} tokens", f"{_SDPA}, {tokens:,} tokens"
        calls = {ours: partial(prefill, card.model, ids[0]), dense: partial(read_dense, card.model, ids)}
        # Four times the tokens take four to sixteen times the time.
        expected = {name: 10 * last.get(name.split(",")[0], 0.0) for name in calls}
        timings = part.race(calls, partial(row_of_reading, part, tokens), expected_s=expected)
        last = {name.split(",")[0]: timing.median_s for name, timing in timings.items()}
        if set(timings) == set(calls):
            times = timings[ours].median_s / timings[dense].median_s
            part.row(f"{tokens:,} tokens: our time ÷ SDPA's", times=times, wanted_at_most_times=1.2)
        if ours in timings:
            peaks[tokens] = timings[ours].peak_bytes
    if len(peaks) > 1:
        *_, before, longest = peaks
        part.row(
            f"peak memory of {longest:,} ÷ of {before:,} tokens",
            times=peaks[longest] / max(1.0, peaks[before]),
            wanted_at_most_times=longest / before,
        )


def row_of_reading(part: Part, tokens: int, name: str, timing: Timing) -> None:
    """The figures of reading so many tokens."""
    part.row(
        name,
        seconds=timing.median_s,
        tokens_per_s=tokens / timing.median_s,
        peak_bytes=timing.peak_bytes,
        repeats=len(timing.seconds),
    )
