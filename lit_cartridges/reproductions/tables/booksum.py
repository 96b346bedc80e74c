"""Summaries of books, as the cascade's paper scores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lit_cartridges.evals.tasks.question_file import QuestionFile
from lit_cartridges.reproductions.long_prompts import LongPrompts, Prompt
from lit_cartridges.reproductions.reproduction import SMOLLM2, Cell, Measured
from lit_cartridges.settings import PositiveInt, ReadFile, checked
from lit_cartridges.text.scores import rouge

_KINDS = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeLsum"}


class BookSum(LongPrompts):
    """Summaries of books or chapters, each text through a cache of half of its length.

    Args:
        path: .jsonl with a text and its summary in each line, which you bring: BookSum (arXiv 2105.08209) is links and a scraper.
        text_field, summary_field: of its lines.
        max_new_tokens: length at which a summary is cut.
    """

    name = "booksum"
    paper = "arXiv 2406.17808, BookSum (arXiv 2105.08209); its figures were not at hand"
    metric = "F1 of ROUGE, ×100"
    form = "{:.2f}"
    share = 2
    system_template = "You are a helpful chat bot that summarizes books.{chunk}"
    notes = (
        "Errors are over texts. ROUGE is the package rouge-score's with stems; the paper's is ROUGE 1.5.5 in Perl.",
    )
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "sink_tokens": 4,
        "num_prompts": 2,
        "max_context_tokens": 2048,
        "max_new_tokens": 64,
    }

    @checked
    def __init__(
        self,
        *,
        path: ReadFile,
        text_field: str = "text",
        summary_field: str = "summary",
        max_new_tokens: PositiveInt = 600,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        read = QuestionFile(path=path, question_field=text_field, answer_field=summary_field)
        self._prompts = [
            Prompt(
                f"Summarize the following text in about 300 words:\n{one.prompt}",
                (str(one.answer),),
                max_new_tokens,
            )
            for one in read.questions()
        ]

    def prompts(self, kind: str) -> Sequence[Prompt]:
        """See `LongPrompts.prompts`."""
        return self._prompts

    def cells(self) -> Sequence[Cell]:
        return [Cell(row=row, column=column) for row in self.systems for column in _KINDS]

    def measure(self, cell: Cell) -> Measured:
        found = self.replies(cell.row, "books")
        kind = _KINDS[cell.column]
        return Measured(
            values=tuple(100 * rouge(reply, one.answers[0], kind, stemmed=True) for one, reply, _ in found),
            seconds=sum(seconds for _, _, seconds in found) if kind == "rouge1" else 0.0,
        )
