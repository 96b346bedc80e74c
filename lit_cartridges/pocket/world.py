"""`World`: an endless source of corpora in the pocket language, and of questions about them."""

from __future__ import annotations

import random
from functools import cache
from zlib import crc32

from lit_cartridges.pocket.language import FILLERS, OPENINGS, STATEMENTS, Fact, state
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.questions import Question, ask_fact
from lit_cartridges.pocket.vocabulary import ATTRIBUTES, KIND_OF, NAMES, VALUES

HELD_OUT_OF = 5
"""One (name, value) pair in this many is held out of every training world."""
RESTATED = 0.4  # share of facts that are stated a second time, in other words
_FILLED = 0.7  # filler sentences per statement

Sentence = tuple[list[str], Fact | None]
"""Its words, and the fact that it states, if it does."""


def is_held_out(name: str, value: str) -> bool:
    """Whether this pair belongs to held-out worlds only; a stable hash decides."""
    return crc32(f"{name} {value}".encode()) % HELD_OUT_OF == 0


@cache
def _values(name: str, attribute: str, held_out: bool) -> tuple[str, ...]:
    """The values that this name may take, in worlds of one side of the split."""
    return tuple(value for value in VALUES[attribute] if is_held_out(name, value) is held_out)


class World:
    """Endless corpora and questions, all decided by `seed`.

    Args:
        seed: decides everything.
        held_out: use only (name, value) pairs that no training world uses; without it, only the others.
        part: `(i, n)` restricts the names to the i-th of n disjoint shares, so that corpora of two worlds share no name.
        attributes: state these attributes only; few of them, shared by many names, make the name decide.
    """

    def __init__(
        self,
        seed: int,
        held_out: bool = False,
        part: tuple[int, int] = (0, 1),
        attributes: tuple[str, ...] | None = None,
    ):
        index, shares = part
        if not 0 <= index < shares:
            raise ValueError(f"part={list(part)}: must be [i, n] with 0 <= i < n")
        self.seed, self.held_out, self.part = seed, held_out, part
        self._attributes = {
            kind: [a for a in known if attributes is None or a in attributes]
            for kind, known in ATTRIBUTES.items()
        }
        self.names = [
            name for kind, names in NAMES.items() if self._attributes[kind] for name in names[index::shares]
        ]

    def corpus(self, num_tokens: int, index: int = 0) -> PocketText:
        """The `index`-th text of about, and never above, `num_tokens` tokens: about one fact per 19 tokens."""
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be positive, got {num_tokens}")
        rng = random.Random(f"{self.seed} {self.held_out} {self.part} {num_tokens} {index}")
        paragraphs: list[list[Sentence]] = []
        again: list[Fact] = []
        size, names = 0, rng.sample(self.names, len(self.names))
        while size < 1.05 * num_tokens + 40:
            if not names:  # everybody has been spoken of: the rest is filler
                paragraphs.append([(rng.choice(FILLERS).split(), None)])
            else:
                paragraphs.append(self._paragraph(names.pop(), rng))
            facts = [fact for _, fact in paragraphs[-1] if fact]
            again += [fact for fact in facts if rng.random() < RESTATED]
            size += sum(len(words) for words, _ in paragraphs[-1]) + round(
                len(facts) * RESTATED * (7 + 8 * _FILLED)
            )
        for fact in again:
            place = rng.choice(paragraphs)
            new = [(state(fact, rng.choice(STATEMENTS[fact.attribute])), fact), *self._filler(rng)]
            at = rng.randint(0, len(place))
            place[at:at] = new
        return assemble([sentence for paragraph in paragraphs for sentence in paragraph], num_tokens)

    def _paragraph(self, name: str, rng: random.Random) -> list[Sentence]:
        """Sentences about one name: some of its attributes, each stated once, with fillers between."""
        sentences: list[Sentence] = []
        if rng.random() < 0.5:
            sentences.append(([name if w == "{n}" else w for w in rng.choice(OPENINGS).split()], None))
        known = self._attributes[KIND_OF[name]]
        for attribute in rng.sample(known, min(len(known), rng.randint(3, 6))):
            values = _values(name, attribute, self.held_out)
            if values:
                fact = Fact(name, attribute, rng.choice(values))
                sentences += [(state(fact, rng.choice(STATEMENTS[attribute])), fact), *self._filler(rng)]
        return sentences

    @staticmethod
    def _filler(rng: random.Random) -> list[Sentence]:
        return [(rng.choice(FILLERS).split(), None)] if rng.random() < _FILLED else []

    def questions(self, corpus: PocketText, n: int, seed: int = 0) -> list[Question]:
        """`n` questions about facts of the corpus, no fact twice before every fact was asked once."""
        rng = random.Random(f"{self.seed} {self.held_out} {seed} questions")
        facts: list[Fact] = []
        while len(facts) < n:
            if not corpus.spans:
                raise ValueError(f"a corpus of {corpus.num_tokens} tokens states no fact in whole")
            facts += rng.sample(corpus.facts, len(corpus.spans))
        return [ask_fact(fact, corpus, rng) for fact in facts[:n]]


def assemble(sentences: list[Sentence], num_tokens: int) -> PocketText:
    """Joins sentences up to the budget; one that does not fit is left out, and the next that does is taken."""
    words: list[str] = []
    spans: dict[Fact, tuple[tuple[int, int], ...]] = {}
    for sentence, fact in sentences:
        end = len(words) + len(sentence)
        if end > num_tokens:
            continue
        if fact:
            spans[fact] = (*spans.get(fact, ()), (len(words), end))
        words += sentence
        if end > num_tokens - 4:
            break
    return PocketText(tuple(words), spans)
