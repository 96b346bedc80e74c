"""Multiple-choice questions: how they are asked, and which option a reply chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

LETTERS = "ABCDEFGHIJ"
_ONLY_LETTER = re.compile(r"^\W*([A-J])(?:\W|$)")
_NAMED_LETTER = re.compile(
    r"\b(?i:answer|option|choice|letter)(?i:\s+is|\s*:)*\W{0,3}\b([A-J])(?:\W|$)|\(([A-J])\)|\b([A-J])\)"
)


def with_choices(question: str, choices: Sequence[str]) -> str:
    """The user's message: the question, its lettered options, and how to answer."""
    options = [f"{letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *options, "Answer with the letter of the right option only."])


def chosen_letter(reply: str, choices: Sequence[str]) -> str | None:
    """The letter that a reply chooses: the one it opens with, the last one it names as its answer, or the letter of the
    only option whose text it holds; None when none of these is to be found."""
    known = LETTERS[: len(choices)]
    opening = _ONLY_LETTER.match(reply)
    # "A 54 year old woman": an article is no choice.
    if opening and opening[1] in known and not (opening[1] == "A" and re.match(r"^\W*A (?!is\b)\w", reply)):
        return opening[1]
    named = [letter for match in _NAMED_LETTER.finditer(reply) for letter in match.groups() if letter]
    if named and named[-1] in known:
        return named[-1]
    quoted = [
        letter for letter, choice in zip(known, choices, strict=True) if choice.casefold() in reply.casefold()
    ]
    return quoted[0] if len(quoted) == 1 else None
