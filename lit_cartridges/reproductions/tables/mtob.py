"""MTOB, for those who have its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lit_cartridges.evals.tasks.mtob import Book, Mtob, MtobCorpus
from lit_cartridges.reproductions.asked import Part
from lit_cartridges.reproductions.reproduction import SMOLLM2, Published
from lit_cartridges.reproductions.translated import EK, KE, TranslationReproduction
from lit_cartridges.settings import ReadFolder, checked

_TEXT = "arXiv 2506.06266, its text; Llama-3.1-8B-Instruct"


class MtobTable(TranslationReproduction):
    """MTOB's own sentences, translated with its grammar book.

    Args:
        path: folder with MTOB's unpacked files, which you bring.
        book: the "latex" source, plain "text", or the "medium" or "long" parts of it.
    """

    name = "mtob"
    paper = "arXiv 2506.06266, MTOB (arXiv 2309.16575)"
    published = tuple(
        Published(row, KE, value, _TEXT)
        for row, value in (
            ("self-study, next token", 24.9),
            ("self-study, distillation", 33.5),
            ("self-study, one seed prompt", 24.1),
            ("self-study, five seed prompts", 32.0),
        )
    )
    notes: tuple[str, ...] = ("The paper's own learning rates depend on the size: set them with --fit.",)
    defaults: ClassVar[dict[str, Any]] = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "recipe": "qwen3_4b_text.yaml",
        "num_tokens": (512, 2048, 8192),
        "systems": ("truncated_icl", "no_context"),
        "max_context_tokens": 130_000,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "recipe": "smollm2_text.yaml",
        "fit": ("--data.groups_per_round=2",),
        "num_tokens": (128,),
        "steps": 30,
        "max_context_tokens": 2048,
        "num_questions": 10,
        "max_new_tokens": 32,
        "book": "medium",
    }

    @checked
    def __init__(self, *, path: ReadFolder, book: Book = "latex", **more: Any) -> None:
        super().__init__(**more)
        self.tasks = {KE: Mtob(path=path, direction="ke"), EK: Mtob(path=path, direction="ek")}
        self.corpus_options: dict[str, Any] = {"path": str(path), "book": book}
        MtobCorpus(**self.corpus_options)  # refused now

    def parts(self) -> Sequence[Part]:
        return [Part("book", MtobCorpus, self.corpus_options, self.tasks)]
