"""Multiple-choice questions as papers ask them: their prompts, and how they read the chosen option off a reply."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from lit_cartridges.evals.tasks.choices import LETTERS, chosen_letter, with_choices

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NAMED = re.compile(r"(?:answer\s*(?:is|:)|correct option is)\W*([A-J])\b", re.IGNORECASE)
_LONE = re.compile(r"\b([A-J])\b")


@dataclass(frozen=True)
class ChoiceStyle:
    """How a question with options is asked and graded.

    Args:
        prompt: the user's message of who the question is about (or nothing), the question and its options.
        chosen: the place of the option that a reply chooses; None where it chooses none.
        answer: the reference answer of the right option's text and letter.
    """

    prompt: Callable[[str, str, Sequence[str]], str]
    chosen: Callable[[str, Sequence[str]], int | None]
    answer: Callable[[str, str], str]


def _by_letter(reply: str, choices: Sequence[str]) -> int | None:
    letter = chosen_letter(reply, choices)
    return None if letter is None else LETTERS.index(letter)


def nearest_option(reply: str, choices: Sequence[str]) -> int:
    """Cartridges (arXiv 2506.06266): the option most like the text in the first answer tags; without them the first option."""
    tagged = _TAGGED.search(reply)
    if tagged is None:
        return 0
    said = tagged[1].strip().lower()
    likeness = [SequenceMatcher(None, said, choice.lower()).ratio() for choice in choices]
    return likeness.index(max(likeness))


def last_line_letter(reply: str, choices: Sequence[str]) -> int | None:
    """Attention Matching (arXiv 2602.16284): of the text behind the thought, or of the last line where there is none, the
    letter that is called the answer, that is all before the first full stop, or that is the last one by itself. A thought
    without an end is wrong.

    Deviation: a letter is a word of its own, so that "the answer is difficult" names none.
    """
    _, ended, text = reply.rpartition("</think>")
    if not ended:
        if "<think>" in reply:
            return None
        text = next((line for line in reversed(reply.splitlines()) if line.strip()), "")
    known = LETTERS[: len(choices)]
    opening = text.replace("*", "").partition(".")[0].strip().upper()
    for letters in (_NAMED.findall(text), [opening], _LONE.findall(text)):
        if found := [letter.upper() for letter in letters if len(letter) == 1 and letter.upper() in known]:
            return known.index(found[-1])
    return None


def _cartridges(about: str, question: str, choices: Sequence[str]) -> str:
    options = "\n".join(choices)
    return (
        f"{about}\n\n<question>\n{question}\n</question>\n\n<options>\n{options}\n</options>\n\n"
        "You should first think step by step. Then give your final answer exactly as it appears in the options. Your output "
        "should be in the following format: \n<think> {{YOUR_THOUGHT_PROCESS}} </think> \n\n<answer>\n{YOUR_ANSWER}\n</answer>"
    ).strip()


def _attention_matching(about: str, question: str, choices: Sequence[str]) -> str:
    options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    letters = [*LETTERS[: len(choices)]]
    told = (
        "Please think step by step briefly and then, on a new line, respond with **only** the letter "
        f"({', '.join(letters[:-1])}, or {letters[-1]}) of the correct option. If you are not sure, still make a guess."
    )
    asked = f"{about}\n{question}" if about else question
    return "\n\n".join([asked, "\n".join(options), told])


STYLES = {
    "letters": ChoiceStyle(
        lambda about, question, choices: with_choices(f"{about}\n{question}".strip(), choices),
        _by_letter,
        lambda text, letter: letter,
    ),
    "cartridges": ChoiceStyle(
        _cartridges, nearest_option, lambda text, letter: f"<answer>\n{text}\n</answer>"
    ),
    "attention_matching": ChoiceStyle(_attention_matching, last_line_letter, lambda text, letter: letter),
}
