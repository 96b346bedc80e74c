"""Training rows: token ids, what each token is to the loss, and its position."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from lit_cartridges.pocket.language import NOT_KNOWN, SEED_PROMPTS, Fact, state
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.questions import KINDS, Question, ask, ask_fact, ask_list
from lit_cartridges.pocket.tokenizer import ids
from lit_cartridges.pocket.vocabulary import ATTRIBUTES, KIND_OF

SILENT, TEXT, ANSWER, VALUE, ASKED, DRILL = range(6)
"""What a token is as a target: none, corpus prose, an answer's word, the value of a one-fact answer, a question asked on a
seed prompt, a drill's value."""

_KIND_SHARES = {
    "question": 0.5,
    "use_case": 0.14,
    "structuring": 0.12,
    "summarization": 0.1,
    "creative": 0.14,
}


@dataclass
class Row:
    """One sequence: `ids`, `roles` (what each token is as a target) and `positions`, all [tokens]."""

    ids: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def say(self, tokens: list[int], role: int = SILENT) -> None:
        """Appends tokens of one role, at the positions that follow."""
        start = self.positions[-1] + 1 if self.positions else 0
        self.ids += tokens
        self.roles += [role] * len(tokens)
        self.positions += range(start, start + len(tokens))

    def cut(self, num_tokens: int) -> Row:
        """The first `num_tokens` tokens."""
        return Row(self.ids[:num_tokens], self.roles[:num_tokens], self.positions[:num_tokens])


def encode(text: str) -> list[int]:
    """The ids of a text of known words."""
    table = ids()
    return [table[word] for word in text.split()]


def conversation_row(
    corpus: PocketText,
    num_tokens: int,
    rng: random.Random,
    seeded: float,
    gap: float,
    max_positions: int,
    unknown: float = 0.0,
) -> Row:
    """A corpus as the system's message, then turns about it until `num_tokens` are full.

    Args:
        corpus: the text; one that states no fact in whole gives a row of text alone.
        num_tokens: length of the row.
        rng: decides everything else.
        seeded: share of turns that give a seed prompt and answer with a question.
        gap: probability that the turns' positions start anywhere up to `max_positions` instead of behind the text.
        max_positions: positions of the model.
        unknown: share of the other turns that ask for what the text does not state.
    """
    row = Row()
    row.say(encode("<bos> <system>"))
    row.say(encode(corpus.text), TEXT)
    if rng.random() < gap:
        last = max_positions - max(0, num_tokens - len(row.ids)) - 1
        row.positions[-1] = rng.randint(8, max(9, last))  # a jump that the rest of the row follows
    unasked: list = []
    while corpus.spans and len(row.ids) < num_tokens:
        if rng.random() < seeded:
            kind = rng.choice(KINDS)
            row.say(encode(f"<user> {rng.choice(SEED_PROMPTS[kind])} <assistant>"))
            row.say(encode(f"{ask(kind, corpus, rng).prompt} <end>"), ASKED)
            continue
        if unknown and rng.random() < unknown:
            answer(row, not_known(corpus, rng))
            continue
        kind = rng.choices(KINDS, [_KIND_SHARES[kind] for kind in KINDS])[0]
        if kind in ("structuring", "summarization"):
            question = ask(kind, corpus, rng)
        else:
            unasked = unasked or rng.sample(corpus.facts, len(corpus.spans))
            question = ask_fact(unasked.pop(), corpus, rng, kind)
        answer(row, question)
    return row.cut(num_tokens)


def not_known(corpus: PocketText | None, rng: random.Random) -> Question:
    """A request for what the text, where there is one, does not state: of somebody in it, or of anybody."""
    known = corpus.facts if corpus else []
    stated = {(fact.name, fact.attribute) for fact in known}
    while True:
        name = rng.choice(known).name if known and rng.random() < 0.5 else rng.choice(list(KIND_OF))
        attribute = rng.choice(ATTRIBUTES[KIND_OF[name]])
        if (name, attribute) not in stated:
            break
        known = known if rng.random() < 0.9 else []  # all may be told of everybody in it
    fact = Fact(name, attribute, "not")  # the word by which the answer goes another way
    nowhere = PocketText((), {fact: ()})
    if rng.random() < 0.12:
        asked, reply = ask_list([fact], nowhere, rng), f"{name} {attribute} not known ."
    else:
        asked = ask_fact(fact, nowhere, rng, rng.choice(["question", "question", "use_case", "creative"]))
        reply = " ".join(state(fact, NOT_KNOWN))
    return replace(asked, answer=reply)


def answer(row: Row, question: Question, before: str = "") -> None:
    """A turn: the question, behind the words of ``before``, and its answer."""
    row.say(encode(f"<user> {before}{question.prompt} <assistant>"))
    values = set(question.values) if len(question.values) == 1 else set()
    for word in [*question.answer.split(), "<end>"]:
        row.say([ids()[word]], VALUE if word in values else ANSWER)
