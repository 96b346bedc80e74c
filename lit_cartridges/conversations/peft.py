"""Conversations in the JSONL of PEFT's self-study example: ``teacher_input_ids``, ``student_input_ids``, ``ctx_len``.

A line holds two renderings of one question and answer, the teacher's with the corpus as its system message and the
student's without; neither says where question and answer begin, so that is found by the tokenizer's chat template. There
are no log-probabilities: PEFT's trainer asks the teacher again in every step, as the FullDistillation objective does.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_cartridges.conversations.conversation import Conversation, ConversationError, Message
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.files.content import named, one_line, parse_json, whole_number

SUFFIX = ".jsonl"
_CORPUS, _QUESTION = "XqStandInCorpusQx", "XqStandInQuestionQx"


@dataclass(frozen=True, slots=True)
class _Template:
    """What the chat template puts around the contents.

    Attributes:
        head: text in front of the corpus, as a pattern.
        after_corpus: ids between the corpus and `user_open`, which only the teacher reads.
        user_open: ids in front of the question in both renderings; none where the template puts the system message into
            the user's turn.
        bare_open: ids in front of the question in the student's.
        answer_open: ids between question and answer.
    """

    head: re.Pattern[str]
    after_corpus: list[int]
    user_open: list[int]
    bare_open: list[int]
    answer_open: list[int]


def read_peft_conversations(path: Path, tokenizer: Any) -> Iterator[Conversation]:
    """The conversations of the file, one per line; answers come without top_logprobs.

    Raises:
        RecordingError: no tokenizer or one that did not make the file, a truncated line, a line of another schema; the
            message names file and line.
    """
    if tokenizer is None:
        raise RecordingError(f"{path}: PEFT's conversations are token ids; give the tokenizer that made them")
    template = _template(tokenizer, path)
    # Every line repeats the corpus, and one copy of its text will do.
    corpora: dict[tuple[int, ...], str] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise ValueError(f"found {named(row)}")
                teacher, student = (
                    _ids(row, f"{who}_input_ids", len(tokenizer)) for who in ("teacher", "student")
                )
                ctx_len = whole_number(row["ctx_len"], "ctx_len", least=-(2**31))
                yield _conversation(teacher, student, ctx_len, number, template, tokenizer, corpora)
            except (ConversationError, KeyError, TypeError, ValueError) as error:
                what = "" if isinstance(error, ConversationError) else "truncated, or not of PEFT's schema: "
                raise RecordingError(f"{path}, line {number}: {what}{one_line(error)}") from error


def _ids(row: dict[str, Any], name: str, vocabulary: int) -> list[int]:
    ids = row[name]
    if not isinstance(ids, list):
        raise ValueError(f"{name} must be a list of token ids, found {named(ids)}")
    return [whole_number(i, name, below=vocabulary) for i in ids]


def _conversation(
    teacher: list[int],
    student: list[int],
    ctx_len: int,
    number: int,
    template: _Template,
    tokenizer: Any,
    corpora: dict[tuple[int, ...], str],
) -> Conversation:
    opening = _find(student, template.user_open or template.bare_open, 0)
    start = opening + len(template.user_open or template.bare_open)
    stop = _find(student, template.answer_open, start)
    if min(opening, stop) < 0:
        raise RecordingError(
            "student_input_ids do not follow the tokenizer's chat template; use the tokenizer that made the file"
        )
    question, answer = student[start:stop], student[stop + len(template.answer_open) :]
    shared = student[opening if template.user_open else start :]
    if len(teacher) - len(student) != ctx_len or teacher[-len(shared) :] != shared or not answer:
        raise RecordingError(
            f"teacher_input_ids ({len(teacher)}) and student_input_ids ({len(student)}) must end in the same question and "
            f"answer, ctx_len={ctx_len} apart"
        )
    context = tuple(teacher[: -len(shared)])
    if teacher != student and context not in corpora:
        corpora[context] = _corpus(context, template, tokenizer)
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in (question, answer)]
    messages = [
        Message(role, text, np.asarray(ids))
        for role, text, ids in zip(("user", "assistant"), texts, (question, answer), strict=True)
    ]
    kind = "off_corpus" if teacher == student else "self_study"
    return Conversation(tuple(messages), corpora.get(context, ""), {"line": number}, kind)


def _corpus(context: Sequence[int], template: _Template, tokenizer: Any) -> str:
    """The system message's text, out of all that the teacher reads in front of the question."""
    after = template.after_corpus
    ids = list(
        context[: len(context) - len(after)] if after and list(context[-len(after) :]) == after else context
    )
    text = str(tokenizer.decode(ids, skip_special_tokens=False))
    found = template.head.match(text)
    if found is None:
        raise RecordingError(
            f"teacher_input_ids begin with {text[:60]!r}, not as the tokenizer's chat template does; use the tokenizer "
            "that made the file"
        )
    return text[found.end() :].strip()


def _template(tokenizer: Any, path: Path) -> _Template:
    try:
        user = {"role": "user", "content": _QUESTION}
        bare, whole = (
            str(
                tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
                )
            )
            for chat in ([user], [{"role": "system", "content": _CORPUS}, user])
        )
        bare_open, answer_open = bare.split(_QUESTION)
        head, rest = whole.split(_CORPUS)
        user_open = rest.split(_QUESTION)[0]
    except Exception as error:  # what goes wrong in a template is the template's own choice of exception
        raise RecordingError(
            f"{path}: the tokenizer's chat template cannot render a system and a user message, so it did not make this "
            f"file ({error})"
        ) from error
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (bare_open, user_open, answer_open)]
    shared = 0
    while shared < min(len(ids[0]), len(ids[1])) and ids[0][-1 - shared] == ids[1][-1 - shared]:
        shared += 1
    cut = len(ids[1]) - shared
    return _Template(_pattern(head), ids[1][:cut], ids[1][cut:], ids[0], ids[2])


def _pattern(head: str) -> re.Pattern[str]:
    """``head`` with any white space and any date: some templates write the day on which they are rendered."""
    months = {*calendar.month_abbr[1:], *calendar.month_name[1:]}
    words = [r"\w+" if word in months else re.sub(r"\d+", r"\\d+", re.escape(word)) for word in head.split()]
    return re.compile(r"\s*".join(["", *words, ""]))


def _find(ids: list[int], part: list[int], start: int) -> int:
    """Where ``part`` first stands in ``ids`` from ``start`` on; -1 where it does not, or is empty."""
    ends = range(start, len(ids) - len(part) + 1) if part else range(0)
    return next((i for i in ends if ids[i : i + len(part)] == part), -1)
