"""Words and letters that a reply has, has so often, or has not. Upper and lower case are one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction, compared, require_relation


@dataclass(frozen=True, kw_only=True)
class KeywordExistence(Instruction):
    """Each keyword stands in the reply, also as a part of a word."""

    type = "keywords:existence"
    keywords: tuple[str, ...]

    def follows(self, reply: str) -> bool:
        return all(keyword.lower() in reply.lower() for keyword in self.keywords)


@dataclass(frozen=True, kw_only=True)
class KeywordFrequency(Instruction):
    """A keyword stands in the reply so often, parts of words included."""

    type = "keywords:frequency"
    relation: str
    keyword: str
    frequency: int

    def __post_init__(self) -> None:
        require_relation(self.relation, "relation")
        if not self.keyword.strip():
            raise ValueError(f"keyword={self.keyword!r} is blank")

    def follows(self, reply: str) -> bool:
        found = len(re.findall(re.escape(self.keyword.strip()), reply, re.IGNORECASE))
        return compared(found, self.relation, self.frequency)


@dataclass(frozen=True, kw_only=True)
class ForbiddenWords(Instruction):
    """None of the words stands in the reply as a whole word."""

    type = "keywords:forbidden_words"
    forbidden_words: tuple[str, ...]

    def follows(self, reply: str) -> bool:
        return not any(
            re.search(rf"\b{re.escape(word)}\b", reply, re.IGNORECASE) for word in self.forbidden_words
        )


@dataclass(frozen=True, kw_only=True)
class LetterFrequency(Instruction):
    """A letter, or another character, stands in the reply so often."""

    type = "keywords:letter_frequency"
    let_relation: str
    letter: str
    let_frequency: int

    def __post_init__(self) -> None:
        require_relation(self.let_relation, "let_relation")
        if len(self.letter) != 1:
            raise ValueError(f"letter={self.letter!r} must be one character")

    def follows(self, reply: str) -> bool:
        return compared(reply.lower().count(self.letter.lower()), self.let_relation, self.let_frequency)
