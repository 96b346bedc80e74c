"""IFEval (arXiv 2311.07911): prompts whose instructions a program can check, and which have no reference answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from lit_cartridges.evals.instructions import Instruction, Verdict, read_instruction
from lit_cartridges.evals.tasks.json_records import read_records
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.files.content import is_text, one_line
from lit_cartridges.settings import PositiveInt, ReadFile, checked


@dataclass(frozen=True, kw_only=True)
class InstructedPrompt(EvalQuestion):
    """A prompt, and the instructions that a program takes it to hold."""

    instructions: tuple[Instruction, ...]


class IFEval(EvalTask):
    """Prompts that say how the reply has to be. A reply is right that follows all of its prompt's instructions.

    The figures beside the accuracy are IFEval's four: the share of prompts all of whose instructions were followed, and
    the share of instructions, each strict and loose (see `Verdict`). Replies need room: published figures allow 1,280
    tokens. Sentences are counted by rules of our own (see `count_sentences`), and a keyword is text, not a regular
    expression.

    Args:
        path: the file: a line per prompt, with ``prompt``, ``instruction_id_list`` and ``kwargs``.
        loose: take the loose verdict for a reply's being right.
        limit: the first so many prompts only.

    Raises:
        EvalError: at construction, the file cannot be read, or holds an instruction that is unknown; it names the line.
        MissingExtraError: an instruction is about the reply's language, and langdetect is not installed.
    """

    @checked
    def __init__(self, *, path: ReadFile, loose: bool = False, limit: PositiveInt | None = None) -> None:
        self.path, self.loose = Path(path), loose
        self._questions = [
            _question(record, f"path={str(path)!r}: {where}")
            for where, record in read_records(self.path)[:limit]
        ]

    def questions(self) -> Sequence[InstructedPrompt]:
        return self._questions

    def is_right(self, question: EvalQuestion, reply: str) -> bool:
        """Whether the reply follows all instructions."""
        verdict = self.verdict(question, reply)
        return all(verdict.loose if self.loose else verdict.strict)

    def verdict(self, question: EvalQuestion, reply: str) -> Verdict:
        """Which instructions the reply follows, for a question of this task."""
        if not isinstance(question, InstructedPrompt):
            raise TypeError(f"{question!r} has no instructions: it is no question of {self.describe()}")
        return Verdict.of(question.instructions, reply)

    def figures(
        self, questions: Sequence[EvalQuestion], replies: Sequence[str]
    ) -> Mapping[str, tuple[float, float | None]]:
        """The four shares, with standard errors over prompts."""
        verdicts = [self.verdict(one, reply) for one, reply in zip(questions, replies, strict=True)]
        found = {}
        for manner in ("strict", "loose"):
            followed = [getattr(one, manner) for one in verdicts]
            found[f"prompts {manner}"] = _share([(all(one),) for one in followed])
            found[f"instructions {manner}"] = _share(followed)
        return found

    def describe(self) -> str:
        return f"{type(self).__name__} {self.path.name}{' loose' if self.loose else ''}"


def _share(followed: Sequence[Sequence[bool]]) -> tuple[float, float | None]:
    """The share of what was followed; its standard error takes what belongs to one prompt to go together."""
    prompts, total = len(followed), sum(map(len, followed))
    share = sum(map(sum, followed)) / total
    if prompts < 2:
        return share, None
    spread = sum((sum(one) - share * len(one)) ** 2 for one in followed)
    return share, sqrt(prompts / (prompts - 1) * spread) / total


def _question(record: Any, where: str) -> InstructedPrompt:
    """
    Raises:
        EvalError: the record is no prompt of IFEval's.
    """
    try:
        if not isinstance(record, dict):
            raise ValueError(f"it is {type(record).__name__} and no object")
        prompt: Any = record.get("prompt")
        types, settings = record.get("instruction_id_list"), record.get("kwargs")
        if not is_text(prompt) or not prompt.strip():
            raise ValueError("it has no text under 'prompt'")
        if (
            not isinstance(types, list)
            or not isinstance(settings, list)
            or not 1 <= len(types) == len(settings)
        ):
            raise ValueError(
                "'instruction_id_list' and 'kwargs' must be lists of the same length, at least 1"
            )
        instructions = [
            read_instruction(one, own, f"instruction {i}")
            for i, (one, own) in enumerate(zip(types, settings, strict=True), start=1)
        ]
    except ValueError as error:
        raise EvalError(f"{where}: {one_line(error)}") from error
    return InstructedPrompt(prompt=prompt, answer=None, instructions=tuple(instructions))
