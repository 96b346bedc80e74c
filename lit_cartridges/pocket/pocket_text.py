"""A text in the pocket language, with the facts it states and where; and any such text read back."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.pocket.language import STATEMENTS, Fact, state
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF, KIND_OF


@dataclass(frozen=True)
class PocketText:
    """A text, the facts it states, and where.

    `words`: its tokens. `spans`: fact -> the [start, end) token spans of the sentences that state it, in whole.
    """

    words: tuple[str, ...]
    spans: dict[Fact, tuple[tuple[int, int], ...]]

    @property
    def text(self) -> str:
        """The words joined by blanks; one word is one token."""
        return " ".join(self.words)

    @property
    def facts(self) -> list[Fact]:
        """The facts stated, in the order of their first statement."""
        return list(self.spans)

    @property
    def num_tokens(self) -> int:
        """Length of the text in tokens."""
        return len(self.words)

    def cut(self, start: int, end: int) -> PocketText:
        """The chunk of tokens [start, end), which may begin and end in mid-sentence, with the facts it states in whole."""
        start, end = max(0, start), min(len(self.words), end)
        spans: dict[Fact, tuple[tuple[int, int], ...]] = {}
        for fact, places in self.spans.items():
            inside = tuple((a - start, b - start) for a, b in places if a >= start and b <= end)
            if inside:
                spans[fact] = inside
        return PocketText(self.words[start:end], spans)


def read_corpus(text: str) -> PocketText:
    """The text as a `PocketText`: every sentence that is a statement of the language gives its fact.

    Where a text contradicts itself, the later statement of a (name, attribute) counts, and the earlier is no fact.
    """
    words = tuple(text.split())
    spans: dict[Fact, tuple[tuple[int, int], ...]] = {}
    start = 0
    for end, word in enumerate(words, start=1):
        if word == "." or end == len(words):
            fact = read_statement(words[start:end])
            if fact is not None:
                spans[fact] = (*spans.get(fact, ()), (start, end))
            start = end
    latest = {(fact.name, fact.attribute): fact for fact in spans}
    return PocketText(words, {fact: places for fact, places in spans.items() if fact in latest.values()})


def read_statement(sentence: tuple[str, ...]) -> Fact | None:
    """The fact that these words state, their full stop included; None if they state none."""
    names = [word for word in sentence if word in KIND_OF]
    if len(names) != 1 or len(sentence) < 3 or sentence[-2] not in ATTRIBUTE_OF:
        return None
    for attribute, templates in STATEMENTS.items():
        fact = Fact(names[0], attribute, sentence[-2])
        if any(tuple(state(fact, template)) == sentence for template in templates):
            return fact
    return None
