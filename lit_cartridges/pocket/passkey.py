"""Passkeys in the pocket language: facts about one name, stated once in filler."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lit_cartridges.evals.tasks.passkey import PasskeyLanguage
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion
from lit_cartridges.pocket.language import ANSWER, FILLERS, QUESTIONS, STATEMENTS, Fact, state
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF, ATTRIBUTES, NAMES, VALUES
from lit_cartridges.pocket.world import is_held_out
from lit_cartridges.settings import PositiveInt, checked


class PocketPasskey(PasskeyLanguage):
    """A key of some facts about one name, each the value of an attribute and asked for by a question of its own.

    A digit is right when the reply's only value word is the right one. No training world has the (name, value) pairs.

    Args:
        num_facts: "digits" of the key, 1 to 6.
    """

    @checked
    def __init__(self, *, num_facts: PositiveInt = 4) -> None:
        most = min(len(attributes) for attributes in ATTRIBUTES.values())
        if not 1 <= num_facts <= most:
            raise EvalError(f"num_facts={num_facts} must lie in 1..{most}")
        self.num_facts = num_facts

    def filler(self, rng: random.Random) -> str:
        """See `PasskeyLanguage.filler`."""
        return rng.choice(FILLERS)

    def key(self, rng: random.Random) -> tuple[str, tuple[EvalQuestion, ...], tuple[str, ...]]:
        """See `PasskeyLanguage.key`."""
        facts: list[Fact] = []
        while len(facts) < self.num_facts:  # a name may have too few values that no training world gives it
            kind = rng.choice(list(NAMES))
            name, facts = rng.choice(NAMES[kind]), []
            for attribute in rng.sample(ATTRIBUTES[kind], len(ATTRIBUTES[kind])):
                values = [value for value in VALUES[attribute] if is_held_out(name, value)]
                if values and len(facts) < self.num_facts:
                    facts.append(Fact(name, attribute, rng.choice(values)))
        statement = [word for fact in facts for word in state(fact, rng.choice(STATEMENTS[fact.attribute]))]
        questions = tuple(
            EvalQuestion(
                prompt=" ".join(state(fact, rng.choice(QUESTIONS[fact.attribute]))),
                answer=" ".join(state(fact, ANSWER)),
                values=(fact.value,),
            )
            for fact in facts
        )
        return " ".join(statement), questions, tuple(fact.value for fact in facts)

    def digits(self, replies: Sequence[str]) -> list[str]:
        """Each reply's value words, which are one word where the reply is good."""
        return [" ".join(word for word in reply.split() if word in ATTRIBUTE_OF) for reply in replies]
