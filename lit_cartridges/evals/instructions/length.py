"""How many sentences, paragraphs and words a reply has, and how one of its paragraphs begins."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import (
    Instruction,
    compared,
    parts_between,
    require_relation,
)
from lit_cartridges.evals.instructions.sentences import count_sentences


@dataclass(frozen=True, kw_only=True)
class NumberSentences(Instruction):
    """So many sentences; see `count_sentences`."""

    type = "length_constraints:number_sentences"
    relation: str
    num_sentences: int

    def __post_init__(self) -> None:
        require_relation(self.relation, "relation")

    def follows(self, reply: str) -> bool:
        return compared(count_sentences(reply), self.relation, self.num_sentences)


@dataclass(frozen=True, kw_only=True)
class NumberWords(Instruction):
    """So many words: runs of letters, digits and underscores, so that "don't" is two."""

    type = "length_constraints:number_words"
    relation: str
    num_words: int

    def __post_init__(self) -> None:
        require_relation(self.relation, "relation")

    def follows(self, reply: str) -> bool:
        return compared(len(re.findall(r"\w+", reply)), self.relation, self.num_words)


@dataclass(frozen=True, kw_only=True)
class NumberParagraphs(Instruction):
    """Exactly so many paragraphs, with ``***`` between them and none of them blank."""

    type = "length_constraints:number_paragraphs"
    num_paragraphs: int

    def follows(self, reply: str) -> bool:
        paragraphs = parts_between(reply, r"\s?\*\*\*\s?")
        return paragraphs is not None and len(paragraphs) == self.num_paragraphs


@dataclass(frozen=True, kw_only=True)
class NthParagraphFirstWord(Instruction):
    """Exactly so many paragraphs, with blank lines between them, and one of them begins with this word.

    Blank paragraphs are not counted, but have a place, as in IFEval. A word ends at the first of . , ? ! ' and ".
    """

    type = "length_constraints:nth_paragraph_first_word"
    num_paragraphs: int
    nth_paragraph: int
    first_word: str

    def __post_init__(self) -> None:
        if not 1 <= self.nth_paragraph <= self.num_paragraphs:
            raise ValueError(f"nth_paragraph={self.nth_paragraph} must be one of {self.num_paragraphs}")

    def follows(self, reply: str) -> bool:
        paragraphs = reply.split("\n\n")
        if sum(bool(one.strip()) for one in paragraphs) != self.num_paragraphs:
            return False
        words = paragraphs[self.nth_paragraph - 1].split()
        if not words:
            return False
        first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0]
        return first.lower() == self.first_word.lower()
