"""Many similar requests in one conversation, one of which is to be answered again (after OpenAI's MRCR)."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from difflib import SequenceMatcher

from lit_cartridges.evals.generators.generator import Asked, Generator, Made
from lit_cartridges.evals.generators.words import distinct
from lit_cartridges.text.scores import words_f1

FORMS = ("poem", "letter", "speech", "riddle", "diary entry", "short scene", "news report", "fable")
TOPICS = (
    "tulips",
    "harbours",
    "winter",
    "a lost key",
    "bridges",
    "bread",
    "the moon",
    "trains",
    "a strike",
    "rain",
)
_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
START, END = "<start>", "<end>"


class SimilarRequests(Generator):
    """A conversation in which one request is made several times, among requests for other forms and other topics.

    A question asks for one of the replies again, with some letters in front that no reply holds.

    Args:
        line: one line of a reply, for a random number generator.
        needles: times that the request is made which is asked for, and questions about one text.
        lines: of a reply.
        tags: ask for the reply between ``<start>`` and ``<end>``, as the cartridge paper does; if not, for nothing else.

    Deviations from OpenAI's: replies are put together from given lines, not written by a model, and the conversation is one
    text, with "User:" and "Assistant:", since a corpus is text.
    """

    max_new_tokens = 256
    least = 1

    def __init__(
        self, *, line: Callable[[random.Random], str], needles: int = 2, lines: int = 4, tags: bool = False
    ) -> None:
        self.line, self.needles, self.lines, self.tags = line, needles, lines, tags

    def made(self, size: int, rng: random.Random) -> Made:
        """See `Generator.made`; ``size`` other requests."""
        pairs = [(form, topic) for form in FORMS for topic in TOPICS]
        wanted = rng.choice(pairs)
        letters = string.ascii_letters + string.digits
        marks = distinct(lambda: "".join(rng.choices(letters, k=10)), self.needles)
        # The likest ones first: the same form about something else, the same topic in another form, and then all others.
        near = [pair for pair in pairs if (pair[0] == wanted[0]) != (pair[1] == wanted[1])]
        far = [pair for pair in pairs if pair[0] != wanted[0] and pair[1] != wanted[1]]
        rng.shuffle(near)
        rng.shuffle(far)
        others = [(near + far)[i % len(near + far)] for i in range(size)]
        requests = [wanted] * self.needles + others
        rng.shuffle(requests)
        replies = distinct(lambda: "\n".join(self.line(rng) for _ in range(self.lines)), len(requests))
        turns = [
            f"User: Write a {form} about {topic}.\n\nAssistant: {reply}"
            for (form, topic), reply in zip(requests, replies, strict=True)
        ]
        own = [reply for request, reply in zip(requests, replies, strict=True) if request == wanted]
        return Made(
            text="\n\n".join(turns),
            questions=tuple(
                self._asked(_ORDINALS[i], wanted, mark, reply)
                for i, (mark, reply) in enumerate(zip(marks, own, strict=True))
            ),
        )

    def _asked(self, which: str, wanted: tuple[str, str], mark: str, reply: str) -> Asked:
        how = (
            f"Put your reply between {START} and {END}." if self.tags else "Put nothing else into your reply."
        )
        answer = f"{mark}{reply}"
        return Asked(
            prompt=f"Prepend {mark} to the {which} {wanted[0]} about {wanted[1]} of the conversation above. {how}",
            lead="",
            answers=(f"{START}{answer}{END}" if self.tags else answer, mark),
        )


def ratio_after_mark(reply: str, answer: str, mark: str) -> float:
    """0 where the reply does not begin with the mark; else how like the rest is to the answer's, as SequenceMatcher says."""
    if not reply.startswith(mark):
        return 0.0
    return SequenceMatcher(None, reply.removeprefix(mark), answer.removeprefix(mark)).ratio()


def tagged_f1(reply: str, answer: str) -> float:
    """F1 of the blank-separated words between `START` and `END` of both; 0 where the reply has no start."""
    inside = [re.search(rf"{START}(.*?)(?:{END}|\Z)", text, re.DOTALL) for text in (reply, answer)]
    if inside[0] is None or inside[1] is None:
        return 0.0
    return words_f1(inside[0][1].split(), inside[1][1].split())
