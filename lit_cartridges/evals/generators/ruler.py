"""RULER's thirteen tasks (arXiv 2404.06654) by their names, as settings of the generators, and its score.

Numbers and rules are the paper's; every wording is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_cartridges.evals.generators.coded_words import CodedWords
from lit_cartridges.evals.generators.common_words import CommonWords
from lit_cartridges.evals.generators.documents import DocumentQuestion, Documents
from lit_cartridges.evals.generators.generator import Generator
from lit_cartridges.evals.generators.needles import Needles
from lit_cartridges.evals.generators.variables import Variables
from lit_cartridges.evals.generators.words import Words

NEEDLES: dict[str, dict[str, Any]] = {
    "niah_single_1": {"haystack": "noise"},
    "niah_single_2": {"haystack": "text"},
    "niah_single_3": {"haystack": "text", "values": "uuids"},
    "niah_multikey_1": {"haystack": "text", "num_keys": 4},
    "niah_multikey_2": {"haystack": "needles"},
    "niah_multikey_3": {"haystack": "needles", "keys": "uuids", "values": "uuids"},
    "niah_multivalue": {"haystack": "text", "values_per_key": 4},
    "niah_multiquery": {"haystack": "text", "asked_together": 4},
}
TEXT_TASKS = tuple(name for name, given in NEEDLES.items() if given["haystack"] == "text")
QUESTION_TASKS = ("qa_1", "qa_2")
ONE_QUESTION = ("cwe", "fwe")
RULER_TASKS = (*NEEDLES, "vt", "cwe", "fwe", *QUESTION_TASKS)
_LONG = 4096  # tokens, from which on lists of common words repeat them as the paper's do


def ruler_generator(
    name: str,
    *,
    num_tokens: int,
    questions: int,
    words: Words,
    sentences: Sequence[str] = (),
    documents: Sequence[str] = (),
    known: Sequence[DocumentQuestion] = (),
) -> Generator:
    """The generator of one of `RULER_TASKS`; ``sentences`` are the haystack's, ``documents`` and ``known`` those of qa."""
    if name in NEEDLES:
        return Needles(words=words, sentences=sentences, questions=questions, **NEEDLES[name])
    if name in QUESTION_TASKS:
        return Documents(documents=documents, known=known, questions=questions)
    if name == "vt":
        return Variables(questions=questions)
    if name == "cwe":
        return CommonWords(words=words.all, short=num_tokens < _LONG)
    return CodedWords(vocabulary=num_tokens // 50)


def string_match(reply: str, answers: Sequence[str], *, every: bool) -> float:
    """The share of the answers that stand in the reply, or 1 where any does; case does not matter."""
    found = [answer.casefold() in reply.casefold() for answer in answers]
    return sum(found) / len(found) if every else float(any(found))
