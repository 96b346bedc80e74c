"""Passkeys after arXiv 2406.17808: the key is stated twice, between marks, in words that are drawn at random."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from lit_cartridges.evals.generators.words import wonderwords
from lit_cartridges.evals.tasks.passkey import EnglishPasskey
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion
from lit_cartridges.settings import Range, ReadFile, checked

_WORDS_AT_ONCE = 16


class WordPasskey(EnglishPasskey):
    """A number in random words, which is stated twice. Sentences are our own, and each text draws its words anew, where the paper
    cuts all texts out of one stream of a million words.

    Args:
        words: a word a line, such as Debian's /usr/share/dict/words; those of the package wonderwords by default.
        num_digits: of the key. The first so many digits of a reply count, each at its own place.

    Raises:
        EvalError: the file cannot be read, or holds no word.
        MissingExtraError: it takes wonderwords, which is not installed.
    """

    @checked
    def __init__(
        self,
        *,
        words: ReadFile | None = None,
        num_digits: Annotated[int, Range(least=1, most=1_000)] = 5,
    ) -> None:
        super().__init__(num_digits=num_digits)
        self.words = wonderwords().all if words is None else _read(words)

    def filler(self, rng: random.Random) -> str:
        """A few words; see `PasskeyLanguage.filler`."""
        return " ".join(rng.choices(self.words, k=_WORDS_AT_ONCE))

    def key(self, rng: random.Random) -> tuple[str, tuple[EvalQuestion, ...], tuple[str, ...]]:
        """See `PasskeyLanguage.key`."""
        _, (asked,), digits = super().key(rng)
        told = f"The pass key is {asked.answer}. Remember it: {asked.answer} is the pass key."
        marked = (
            f"=== NOW IMPORTANT INFORMATION STARTS ===\n{told}\n{told}\n=== IMPORTANT INFORMATION ENDS ==="
        )
        return f"\n{marked}\n", (asked,), digits

    def digits(self, replies: Sequence[str]) -> list[str]:
        """The reply's first digits, whatever stands between them."""
        return re.findall(r"\d", replies[0])[: self.num_digits]


def _read(path: Path) -> list[str]:
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"words={str(path)!r} cannot be read as UTF-8 text: {error}") from error
    if not words:
        raise EvalError(f"words={str(path)!r} holds no word; give a file with a word a line")
    return words
