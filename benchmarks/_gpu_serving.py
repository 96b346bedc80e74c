"""Tokens per second of the largest batch: the corpus in a cache per row, a cartridge per row, one cartridge for all rows."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks import _common as common
from benchmarks._gpu_part import Part
from benchmarks._serving_rows import PAPERS_RATIO, WAYS, ratios, throughput


def measure(part: Part) -> None:
    """The paper's protocol as far as the budget goes, which is shared out evenly; `benchmarks.serving` does all of it."""
    card = part.card
    corpora = card.pick((8192, 32768, 120_000), (64, 128))
    to_do = len(corpora) * len(WAYS)
    for corpus in corpora:
        rates: dict[str, float] = {}
        for way, (compression, held_by) in WAYS.items():
            name = f"corpus of {corpus:,}: {way}"
            # Building the cache and warming up take some of it.
            allowance = 0.7 * part.left_s / to_do
            to_do -= 1
            with part.trying(name):
                found = throughput(
                    card.model,
                    held_by,
                    held=max(1, round(corpus / compression)),
                    new_tokens=card.pick(128, 4),
                    free_bytes=common.free_bytes() if card.device == "cuda" else 16 * 2**20,
                    max_rows=card.pick(4096, 8),
                    seconds=allowance,
                )
                if found is None:
                    part.miss(name, "not even one row fits the memory")
                    continue
                rates[way] = found.tokens_per_s
                part.row(name, **asdict(found))
        for name, times in ratios(rates).items():
            part.row(f"corpus of {corpus:,}: {name}", times=times, papers_times=PAPERS_RATIO)
