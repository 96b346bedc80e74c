"""Capital and small letters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction, compared, require_relation
from lit_cartridges.evals.instructions.language import is_in
from lit_cartridges.optional import require_modules

_BETWEEN_WORDS = re.compile(r"[\s,;:@#$%&?!()\[\]{}<>\"“”‘’…]+|\.{2,}|--+")
_ENDING = re.compile(r"(?=n't$|'(?:s|m|d|ll|re|ve)$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CapitalWordFrequency(Instruction):
    """So many words without a small letter.

    Words as NLTK's tokenizer has them: what hyphens join is one, and "I'M" are two, the verb being a word of its own.
    """

    type = "change_case:capital_word_frequency"
    capital_relation: str
    capital_frequency: int

    def __post_init__(self) -> None:
        require_relation(self.capital_relation, "capital_relation")

    def follows(self, reply: str) -> bool:
        words = (part for word in _BETWEEN_WORDS.split(reply) for part in _ENDING.split(word))
        return compared(sum(word.isupper() for word in words), self.capital_relation, self.capital_frequency)


@dataclass(frozen=True, kw_only=True)
class EnglishCapital(Instruction):
    """English, in capital letters alone."""

    type = "change_case:english_capital"

    def __post_init__(self) -> None:
        require_modules("langdetect")

    def follows(self, reply: str) -> bool:
        return reply.isupper() and is_in("en", reply)


@dataclass(frozen=True, kw_only=True)
class EnglishLowercase(Instruction):
    """English, in small letters alone."""

    type = "change_case:english_lowercase"

    def __post_init__(self) -> None:
        require_modules("langdetect")

    def follows(self, reply: str) -> bool:
        return reply.islower() and is_in("en", reply)
