"""Translating single sentences from and into Kalamang, as MTOB (arXiv 2309.16575) and Cartridges ask it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

from lit_cartridges.evals.tasks.chrf import corpus_chrf
from lit_cartridges.evals.tasks.task import EvalQuestion, EvalTask
from lit_cartridges.optional import require_modules

Direction = Literal["ke", "ek"]
"""From Kalamang to English, or from English to Kalamang."""
_LANGUAGES = {"ke": ("Kalamang", "English"), "ek": ("English", "Kalamang")}


class Translation(EvalTask, ABC):
    """Sentences with their translations; what counts is the chrF of all replies together (0 to 100).

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """

    def __init__(self, direction: Direction) -> None:
        require_modules("sacrebleu")
        self.direction = direction

    @abstractmethod
    def pairs(self) -> Sequence[tuple[str, str]]:
        """Sentences and their translations."""

    def questions(self) -> Sequence[EvalQuestion]:
        source, target = _LANGUAGES[self.direction]
        return [
            EvalQuestion(prompt=_prompt(text, source, target), answer=translation)
            for text, translation in self.pairs()
        ]

    def figures(
        self, questions: Sequence[EvalQuestion], replies: Sequence[str]
    ) -> Mapping[str, tuple[float, float | None]]:
        """See `EvalTask.figures`."""
        return {"chrF": corpus_chrf([replies], [one.answer or "" for one in questions])}

    def describe(self) -> str:
        return f"{type(self).__name__} {self.direction}"


def pairs_text(pairs: Sequence[tuple[str, str]]) -> str:
    """Sentences as a part of a corpus."""
    return "\n\n".join(f"Kalamang: {kalamang}\nEnglish: {english}" for kalamang, english in pairs)


def _prompt(text: str, source: str, target: str) -> str:
    return (
        f'You are tasked with translating the following sentence from {source} to {target}: "{text}". I understand that you may '
        f"not be familiar enough with {source} or {target} to make a confident translation, but please give your best guess. "
        "Make sure you respond with only the translation and absolutely no other text. Do not repeat the input sentence."
    )
