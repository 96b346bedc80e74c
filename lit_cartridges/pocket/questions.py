"""Questions about a corpus: making them, reading them back, answering and grading them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from lit_cartridges.pocket.language import (
    ANSWER,
    CREATIONS,
    LISTS,
    QUESTIONS,
    SUMMARIES,
    USE_CASES,
    Fact,
    state,
)
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF, ATTRIBUTES, KIND_OF, VALUES

KINDS = ("structuring", "summarization", "question", "use_case", "creative")
"""Kinds of question, named as the seed prompts are."""


@dataclass(frozen=True)
class Question:
    """A user's message and what answers it.

    `values`: the value words that a right answer has, in order. `support`: [start, end) token spans of the sentences in
    the corpus that state the facts.
    """

    kind: str
    prompt: str
    answer: str
    values: tuple[str, ...]
    facts: tuple[Fact, ...]
    support: tuple[tuple[int, int], ...]

    def is_right(self, answer: str) -> bool:
        """Whether the value words of this answer are exactly the right ones, in order."""
        return tuple(word for word in answer.split() if word in ATTRIBUTE_OF) == self.values


def ask_fact(fact: Fact, corpus: PocketText, rng: random.Random, kind: str = "question") -> Question:
    """A question of kind "question", "use_case" or "creative" that needs this one fact."""
    if kind == "creative":
        template = rng.choice(list(CREATIONS))
    else:
        template = rng.choice((USE_CASES if kind == "use_case" else QUESTIONS)[fact.attribute])
    reply = CREATIONS.get(template, ANSWER)
    return _question(kind, " ".join(state(fact, template)), " ".join(state(fact, reply)), [fact], corpus)


def ask_list(facts: list[Fact], corpus: PocketText, rng: random.Random) -> Question:
    """A request of kind "structuring" for these one or two facts about one name, in this order."""
    prompt = rng.choice(LISTS).replace("{f}", _asked(facts))
    return _question("structuring", prompt, _listing(facts), facts, corpus)


def ask(kind: str, corpus: PocketText, rng: random.Random) -> Question:
    """A question of this kind about the corpus, every fact equally likely to be met."""
    fact = rng.choice(corpus.facts)
    if kind in ("question", "use_case", "creative"):
        return ask_fact(fact, corpus, rng, kind)
    known = [other for other in corpus.facts if other.name == fact.name]
    if kind == "structuring":
        rest = [other for other in known if other != fact]
        return ask_list([fact, *rng.sample(rest, min(len(rest), 1))], corpus, rng)
    if kind == "summarization":
        facts, prompt = _in_order(known), rng.choice(SUMMARIES).replace("{n}", fact.name)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return _question(kind, prompt, _listing(facts), facts, corpus)


def read(prompt: str, corpus: PocketText) -> Question | None:
    """The question that this message is, if it asks for facts that the corpus states; None if it does not."""
    words = prompt.split()
    names = {word for word in words if word in KIND_OF}
    if len(names) != 1:
        return None
    (name,) = names
    known = {fact.attribute: fact for fact in corpus.facts if fact.name == name}
    form = " ".join("{n}" if word == name else word for word in words)
    if form in SUMMARIES:
        facts = _in_order(known.values())
        return _question("summarization", prompt, _listing(facts), facts, corpus) if facts else None
    for attribute, fact in known.items():
        general = " ".join("{a}" if word == attribute else word for word in form.split())
        reply = (
            ANSWER if form in _FORMS[attribute] or general in _FORMS[attribute] else CREATIONS.get(general)
        )
        if reply:
            kind = (
                "creative"
                if general in CREATIONS
                else "use_case"
                if form in USE_CASES[attribute]
                else "question"
            )
            return _question(kind, prompt, " ".join(state(fact, reply)), [fact], corpus)
    facts = [known[word] for word in words if word in known]
    if 1 <= len(facts) <= 2 and len(set(facts)) == len(facts):
        if prompt in [template.replace("{f}", _asked(facts)) for template in LISTS]:
            return _question("structuring", prompt, _listing(facts), facts, corpus)
    return None


_FORMS = {attribute: {*QUESTIONS[attribute], *USE_CASES[attribute]} for attribute in VALUES}


def _question(kind: str, prompt: str, answer: str, facts: list[Fact], corpus: PocketText) -> Question:
    support = tuple(span for fact in facts for span in corpus.spans[fact])
    return Question(kind, prompt, answer, tuple(fact.value for fact in facts), tuple(facts), support)


def _listing(facts: list[Fact]) -> str:
    """ "Mira city Odrin , Mira trade baker ." The name is said again so that each value can be looked up where it stands."""
    return " , ".join(f"{fact.name} {fact.attribute} {fact.value}" for fact in facts) + " ."


def _asked(facts: list[Fact]) -> str:
    """ "Mira city and Mira trade", as a list's request names them."""
    return " and ".join(f"{fact.name} {fact.attribute}" for fact in facts)


def _in_order(facts: Iterable[Fact]) -> list[Fact]:
    """Facts of one name in the order of its kind's attributes."""
    return sorted(facts, key=lambda fact: ATTRIBUTES[KIND_OF[fact.name]].index(fact.attribute))
