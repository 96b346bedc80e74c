"""Tables over made texts: a column is a kind of text, of which there are several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from lit_cartridges.evals.result import EvalResult
from lit_cartridges.evals.tasks.generated import GeneratedTask
from lit_cartridges.evals.tasks.task import EvalQuestion
from lit_cartridges.reproductions.asked import AskedReproduction, Part
from lit_cartridges.reproductions.reproduction import Cell, Measured


class GeneratedTable(AskedReproduction):
    """A subclass makes the texts of a column; the score is their task's, and the standard error over texts.

    Attributes:
        columns: kinds of text.
    """

    columns: Sequence[str]
    _column = ""

    @abstractmethod
    def texts(self, column: str) -> list[Part]:
        """The texts with their questions; each part has one task, under the column's name."""

    def parts(self) -> Sequence[Part]:
        if not hasattr(self, "_made"):
            self._made: dict[str, list[Part]] = {}
        if self._column not in self._made:
            self._made[self._column] = self.texts(self._column)
        return self._made[self._column]

    def cells(self) -> Sequence[Cell]:
        found: list[Cell] = []
        for column in self.columns:
            self._column = column
            found += super().cells()
        rows = list(dict.fromkeys(cell.row for cell in found))
        return sorted(found, key=lambda cell: rows.index(cell.row))

    def measure(self, cell: Cell) -> Measured:
        """See `Reproduction.measure`."""
        self._column = cell.column
        before, self.max_new_tokens = self.max_new_tokens, self.cut
        try:
            found, parts = super().measure(cell), self.parts()
        finally:
            self.max_new_tokens = before
        texts = [part.name for part in parts for _ in part.tasks[cell.column].pick(self.num_questions)]
        return replace(found, clusters=tuple(texts)) if len(parts) > 1 else found

    @property
    def cut(self) -> int:
        """Tokens at which the column's replies are cut: where the benchmark does, if that is before ``max_new_tokens``."""
        return min(self.max_new_tokens, self.task.max_new_tokens)

    @property
    def task(self) -> GeneratedTask:
        """One of the column's; all of them are scored alike."""
        task = self.parts()[0].tasks[self._column]
        assert isinstance(task, GeneratedTask)
        return task

    def values(self, result: EvalResult, questions: Sequence[EvalQuestion]) -> dict[str, Any]:
        """See `AskedReproduction.values`."""
        return {
            "values": [
                fmean(self.task.score(question, said) for said in (reply.reply, *reply.others))
                for question, reply in zip(questions, result.replies, strict=True)
            ]
        }
