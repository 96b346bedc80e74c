"""Questions in the pocket language that are not about a corpus: what a short text in the message says, and what nobody said."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from lit_cartridges.evals.tasks.task import EvalQuestion, EvalTask
from lit_cartridges.pocket.language import NOT_KNOWN, Fact, state
from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.questions import Question, ask_fact
from lit_cartridges.pocket.vocabulary import ATTRIBUTES, KIND_OF
from lit_cartridges.pocket.world import World
from lit_cartridges.runs.atomic_files import write_atomically
from lit_cartridges.settings import Count, NonNegativeInt, PositiveInt, checked

_NOTE_TOKENS = 40


class PocketNotes(EvalTask):
    """Questions that a short text in the same message answers: the bundled model reads these without any context.

    Args:
        seed, held_out, part: of the worlds that the texts are of, one world a question.
        num_questions: how many.
        note_tokens: the longest text.
    """

    @checked
    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        num_questions: Count = 100,
        note_tokens: PositiveInt = _NOTE_TOKENS,
        held_out: bool = True,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.seed, self.num_questions, self.note_tokens = seed, num_questions, note_tokens
        self.held_out, self.part = held_out, part

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        answer = question.answer or ""
        return Question("question", question.prompt, answer, question.values, (), ()).is_right(reply)

    @cached_property
    def _questions(self) -> tuple[EvalQuestion, ...]:
        rng = random.Random(f"notes {self.seed} {self.held_out} {self.part}")
        found = note_questions(rng, held_out=self.held_out, part=self.part, note_tokens=self.note_tokens)
        return tuple(question for question, _ in zip(found, range(self.num_questions), strict=False))


class PocketUnknown(EvalTask):
    """Questions about names of which nobody has told anything; right are those replies that say so ("not known").

    Args:
        seed, num_questions: as of `PocketNotes`.
        part: (i, n): only the i-th of n disjoint shares of the names.
    """

    @checked
    def __init__(
        self, *, seed: NonNegativeInt, num_questions: Count = 100, part: tuple[int, int] = (0, 1)
    ) -> None:
        self.seed, self.num_questions, self.part = seed, num_questions, part

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        return "not known" in reply

    @cached_property
    def _questions(self) -> tuple[EvalQuestion, ...]:
        found = unknown_questions(random.Random(f"unknown {self.seed} {self.part}"), part=self.part)
        return tuple(question for question, _ in zip(found, range(self.num_questions), strict=False))


def note_questions(
    rng: random.Random, *, held_out: bool, part: tuple[int, int], note_tokens: int = _NOTE_TOKENS
) -> Iterator[EvalQuestion]:
    """Endless questions behind a short text that answers them."""
    while True:
        note = World(rng.getrandbits(48), held_out=held_out, part=part).corpus(note_tokens)
        if note.facts:
            asked = ask_fact(rng.choice(note.facts), note, rng)
            yield EvalQuestion(prompt=f"{note.text} {asked.prompt}", answer=asked.answer, values=asked.values)


def unknown_questions(rng: random.Random, *, part: tuple[int, int]) -> Iterator[EvalQuestion]:
    """Endless questions about names of this share."""
    names = World(0, part=part).names
    while True:
        name = rng.choice(names)
        fact = Fact(name, rng.choice(ATTRIBUTES[KIND_OF[name]]), "not")
        asked = ask_fact(fact, PocketText((), {fact: ()}), rng, rng.choice(["question", "use_case"]))
        yield EvalQuestion(prompt=asked.prompt, answer=" ".join(state(fact, NOT_KNOWN)), values=("not",))


def write_requests(path: Path, *, count: int, seed: int, part: tuple[int, int]) -> None:
    """A chat data set for ``data.off_corpus``: requests of both kinds, half each, about names of this share."""
    rng = random.Random(f"requests {seed} {part}")
    kinds = note_questions(rng, held_out=False, part=part), unknown_questions(rng, part=part)
    asked = [next(kinds[number % 2]).prompt for number in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"messages": [{"role": "user", "content": text}]}) for text in asked)
    write_atomically(path, ("\n".join(lines) + "\n").encode())
