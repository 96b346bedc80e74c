"""Questions of the user's own, from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_cartridges.evals.tasks.choices import LETTERS, with_choices
from lit_cartridges.evals.tasks.json_records import read_records
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.files.content import is_text, named, one_line
from lit_cartridges.settings import PositiveInt, ReadFile, checked


class QuestionFile(EvalTask):
    """One question per line of a .jsonl file, or per object of the list in a .json file.

    Args:
        path: the file, UTF-8.
        question_field, answer_field: the records' keys that hold the question and its reference answer.
        choices_field: the key of a list of options, in records that have one; their answer is a letter or the option.
        limit: the first so many questions only.

    Raises:
        EvalError: at construction, the file is missing or unreadable, or a record lacks a field; it names the line.
    """

    @checked
    def __init__(
        self,
        *,
        path: ReadFile,
        question_field: str = "question",
        answer_field: str = "answer",
        choices_field: str = "choices",
        limit: PositiveInt | None = None,
    ) -> None:
        self.path, self.limit = Path(path), limit
        self.question_field, self.answer_field, self.choices_field = (
            question_field,
            answer_field,
            choices_field,
        )
        self._questions  # noqa: B018  read it now, so that a bad record fails early

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def describe(self) -> str:
        return f"{type(self).__name__} {self.path.name}"

    @cached_property
    def _questions(self) -> tuple[EvalQuestion, ...]:
        return tuple(self._question(record, where) for where, record in read_records(self.path)[: self.limit])

    def _question(self, record: Any, where: str) -> EvalQuestion:
        question = self._text(record, where, self.question_field, "question_field")
        answer = self._text(record, where, self.answer_field, "answer_field")
        choices = record.get(self.choices_field)
        if choices in (None, "", []):
            return EvalQuestion(prompt=question, answer=answer)
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            raise EvalError(
                f"path={str(self.path)!r}: {where} must have 2 to {len(LETTERS)} options in its "
                f"{self.choices_field!r}, got {one_line(repr(choices))}"
            )
        options = [str(choice) if _is_plain(choice) else "" for choice in choices]
        if not all(options):
            raise EvalError(
                f"path={str(self.path)!r}: {where} has an option in its {self.choices_field!r} that is no text and no "
                f"number: {named(choices[options.index('')])}"
            )
        letter = LETTERS[options.index(answer)] if answer in options else answer
        if letter not in LETTERS[: len(options)]:
            raise EvalError(
                f"path={str(self.path)!r}: {where} has the answer {named(answer)}, which is neither one of its options nor "
                f"one of the letters {LETTERS[: len(options)]}"
            )
        return EvalQuestion(prompt=with_choices(question, options), answer=letter, choices=tuple(options))

    def _text(self, record: Any, where: str, field: str, setting: str) -> str:
        value = record.get(field) if isinstance(record, dict) else None
        if not _is_plain(value) or not str(value).strip():
            there = one_line(sorted(record)) if isinstance(record, dict) else type(record).__name__
            raise EvalError(
                f"path={str(self.path)!r}: {where} has no text under {setting}={field!r}; it holds {there}"
            )
        return str(value)


def _is_plain(value: Any) -> bool:
    """Text that is Unicode, or a finite number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return math.isfinite(value)
    return is_text(value)
