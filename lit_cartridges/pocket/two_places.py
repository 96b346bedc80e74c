"""Texts that tell of every name in two places far apart, and questions that need both."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion
from lit_cartridges.pocket.corpus import WorldCorpus, WorldTokens
from lit_cartridges.pocket.language import STATEMENTS, Fact, state
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.questions import Question, ask_list
from lit_cartridges.pocket.task import PocketQuestions
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF
from lit_cartridges.pocket.world import RESTATED, Sentence, World, assemble
from lit_cartridges.settings import Count, NonNegativeInt, checked


@dataclass(frozen=True)
class TwoPlacesText(PocketText):
    """A text whose second half begins at token ``seam``."""

    seam: int = 0

    def is_late(self, fact: Fact) -> bool:
        """Whether the second half states this fact."""
        return self.spans[fact][0][0] >= self.seam


class TwoPlacesWorld(World):
    """A world whose texts have two halves: some attributes of each name are told in the first, the others in the second.

    The second half takes the names in another order. A fact that is stated again is so in its own half.
    """

    def corpus(self, num_tokens: int, index: NonNegativeInt = 0) -> TwoPlacesText:
        """See `World.corpus`."""
        if num_tokens < 2:
            raise ValueError(f"num_tokens must be at least 2, got {num_tokens}")
        rng = random.Random(f"two places {self.seed} {self.held_out} {self.part} {num_tokens} {index}")
        size, names = num_tokens // 2, rng.sample(self.names, len(self.names))
        halves: tuple[list[list[Sentence]], list[list[Sentence]]] = ([], [])
        while names and min(map(_tokens, halves)) < size + 40:
            told = self._paragraph(names.pop(), rng)
            facts = [fact for _, fact in told if fact]
            second = set(rng.sample(facts, len(facts) // 2))
            for half, own in zip(halves, (set(facts) - second, second), strict=True):
                half.append(self._told(told, own, rng))
        rng.shuffle(halves[1])
        first, last = (assemble([s for p in half for s in p], size) for half in halves)
        if first.num_tokens + last.num_tokens < num_tokens - 40:
            raise ValueError(
                f"num_tokens={num_tokens} is more than {len(self.names)} names fill; choose fewer"
            )
        moved = {
            fact: tuple((a + first.num_tokens, b + first.num_tokens) for a, b in spans)
            for fact, spans in last.spans.items()
        }
        return TwoPlacesText(first.words + last.words, first.spans | moved, seam=first.num_tokens)

    def _told(self, paragraph: list[Sentence], own: set[Fact], rng: random.Random) -> list[Sentence]:
        """The sentences of a paragraph that tell these facts, a filler after some, and what is said again."""
        told: list[Sentence] = []
        for sentence, fact in paragraph:
            if fact in own and fact is not None:
                told += [(sentence, fact), *self._filler(rng)]
                if rng.random() < RESTATED:
                    told += [(state(fact, rng.choice(STATEMENTS[fact.attribute])), fact), *self._filler(rng)]
        return told


def _tokens(paragraphs: list[list[Sentence]]) -> int:
    return sum(len(words) for paragraph in paragraphs for words, _ in paragraph)


class TwoPlacesCorpus(WorldCorpus):
    """The text of a `TwoPlacesWorld`; arguments as for `WorldCorpus`."""

    world_class = TwoPlacesWorld

    @property
    def pocket_text(self) -> TwoPlacesText:
        """See `WorldCorpus.pocket_text`."""
        text = super().pocket_text
        assert isinstance(text, TwoPlacesText)
        return text


class TwoPlacesQuestions(PocketQuestions):
    """Questions about a `TwoPlacesCorpus`; arguments as for `PocketQuestions`, and one more.

    Args:
        two_facts: ask for two attributes of a name at once, one from each half of the text ("list Mira city and Mira trade
            ."). A reply is right if the first two values that it states are the asked ones, in order; what it lists beyond
            them does not count, since the bundled model often goes on, with the text in front of it too. If false, ask
            ordinary questions for one fact, graded as by `PocketQuestions`.
    """

    corpus_class = TwoPlacesCorpus
    corpus: TwoPlacesCorpus

    @checked
    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        num_tokens: WorldTokens,
        num_questions: Count = 100,
        index: NonNegativeInt = 0,
        held_out: bool = True,
        part: tuple[int, int] = (0, 1),
        question_seed: NonNegativeInt = 0,
        two_facts: bool = True,
    ) -> None:
        super().__init__(
            seed=seed,
            num_tokens=num_tokens,
            num_questions=num_questions,
            index=index,
            held_out=held_out,
            part=part,
            question_seed=question_seed,
        )
        self.two_facts = two_facts
        if two_facts and not self._pairs:
            raise EvalError(f"num_tokens={num_tokens}: so short a text tells of nobody twice; try 300")

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """See ``two_facts``."""
        if not self.two_facts:
            return super().is_right(question, reply)
        stated = [word for word in reply.split() if word in ATTRIBUTE_OF]
        return tuple(stated[:2]) == question.values

    def describe(self) -> str:
        return super().describe() + (", two facts" if self.two_facts else "")

    @cached_property
    def _pairs(self) -> list[tuple[Fact, Fact]]:
        """One fact of the first half and one of the second, about the same name."""
        text = self.corpus.pocket_text
        early, late = ([f for f in text.facts if text.is_late(f) is side] for side in (False, True))
        return [pair for pair in product(early, late) if pair[0].name == pair[1].name]

    def _made(self) -> list[Question]:
        if not self.two_facts:
            return super()._made()
        text, asked = self.corpus.pocket_text, []
        rng = random.Random(f"{self.corpus.path.name} {self.question_seed} two facts")
        pairs: list[tuple[Fact, Fact]] = []
        while len(pairs) < self.num_questions:
            pairs += rng.sample(self._pairs, len(self._pairs))
        for pair in pairs[: self.num_questions]:
            asked.append(ask_list(rng.sample(pair, 2), text, rng))
        return asked
