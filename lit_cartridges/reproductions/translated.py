"""Tables of translations: their figures are of all sentences together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_cartridges.evals.result import EvalResult, Reply
from lit_cartridges.evals.tasks.chrf import corpus_chrf, sentence_chrf
from lit_cartridges.evals.tasks.task import EvalQuestion
from lit_cartridges.reproductions.asked import AskedReproduction

KE, EK = "Kalamang → English", "English → Kalamang"


class TranslationReproduction(AskedReproduction):
    """chrF of the corpus of replies, and each sentence's own as its value."""

    metric = "chrF (0 to 100) of all replies together, jackknife error over sentences"
    form = "{:.1f}"
    system_template = (
        "The following is an excerpt from a grammar book about the Kalamang language.\n\n{chunk}"
    )

    def values(self, result: EvalResult, questions: Sequence[EvalQuestion]) -> dict[str, Any]:
        """See `AskedReproduction.values`."""
        return {"values": [sentence_chrf(one.reply, one.answer) for one in result.replies]}

    def together(self, values: Sequence[float], results: Sequence[EvalResult]) -> dict[str, Any]:
        """See `AskedReproduction.together`."""
        replies: list[Reply] = [reply for one in results for reply in one.replies]
        samples = list(zip(*((one.reply, *one.others) for one in replies), strict=True))
        mean, error = corpus_chrf(samples, [one.answer for one in replies])
        return {"mean": mean, "standard_error": error}
