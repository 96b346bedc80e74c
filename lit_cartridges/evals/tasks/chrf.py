"""chrF (Popović 2015) of translations, by sacrebleu: characters' n-grams up to 6, no words, recall twice as heavy."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean


def sentence_chrf(reply: str, reference: str) -> float:
    """Of one sentence, 0 to 100."""
    import sacrebleu

    return float(sacrebleu.sentence_chrf(reply, [reference]).score)


def corpus_chrf(samples: Sequence[Sequence[str]], references: Sequence[str]) -> tuple[float, float | None]:
    """Of all sentences together, which is not the mean of theirs, and its jackknife error over sentences.

    Args:
        samples: translations by sample and sentence; the figure is the mean over samples.
    """
    import sacrebleu

    def score(left_out: int | None) -> float:
        kept = [place for place in range(len(references)) if place != left_out]
        wanted = [[references[place] for place in kept]]
        return fmean(sacrebleu.corpus_chrf([one[place] for place in kept], wanted).score for one in samples)

    count = len(references)
    if count < 2:
        return score(None), None
    without = [score(place) for place in range(count)]
    middle = fmean(without)
    return score(None), sqrt((count - 1) / count * sum((x - middle) ** 2 for x in without))
