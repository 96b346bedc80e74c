"""Kalamang, our split: a whole grammar book, beyond most contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lit_cartridges.evals.tasks.kalamang import Kalamang, KalamangCorpus
from lit_cartridges.reproductions.asked import Part
from lit_cartridges.reproductions.reproduction import SMOLLM2, Published
from lit_cartridges.reproductions.translated import EK, KE, TranslationReproduction
from lit_cartridges.settings import NonNegativeInt, PositiveInt, ReadFile, ReadFolder, checked

_TEXT = "arXiv 2506.06266, its text; Llama-3.1-8B-Instruct on MTOB, which has other sentences than this split"


class KalamangTable(TranslationReproduction):
    """Kalamang, our split: translating with a grammar book.

    Args:
        grammar: folder with the LaTeX chapters (folder chapters of github.com/langsci/344), which you bring.
        examples: examples.csv of the dictionary (github.com/dictionaria/kalamang, folder cldf), which you bring.
        chapters: file names of chapters; all by default, 514k tokens.
        max_characters: of the book, which is cut there.
        sentences: pairs behind the book, at most 375.
    """

    name = "kalamang"
    paper = "after arXiv 2506.06266, MTOB (arXiv 2309.16575); Kalamang, our split"
    published = tuple(
        Published(row, KE, value, _TEXT)
        for row, value in (
            ("MTOB: self-study, next token", 24.9),
            ("MTOB: self-study, distillation", 33.5),
            ("MTOB: self-study, one seed prompt", 24.1),
            ("MTOB: self-study, five seed prompts", 32.0),
        )
    )
    notes: tuple[str, ...] = (
        "Kalamang, our split: the book is MTOB's by title and length; the sentences are of the dictionary, and not MTOB's.",
    )
    defaults: ClassVar[dict[str, Any]] = {
        "model": "Qwen/Qwen3-4B",
        "recipe": "qwen3_4b_text.yaml",
        "num_tokens": (512, 2048, 8192),
        "systems": ("truncated_icl", "no_context"),
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
        "chapters": ("07Pronouns.tex",),
        "max_characters": 20_000,
        "sentences": 40,
    }

    @checked
    def __init__(
        self,
        *,
        grammar: ReadFolder,
        examples: ReadFile,
        chapters: Sequence[str] | None = None,
        max_characters: PositiveInt | None = None,
        sentences: NonNegativeInt = 375,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.tasks = {
            KE: Kalamang(grammar=grammar, examples=examples, direction="ke"),
            EK: Kalamang(grammar=grammar, examples=examples, direction="ek"),
        }
        self.corpus_options: dict[str, Any] = {
            "path": str(grammar),
            "examples": str(examples),
            "chapters": None if chapters is None else list(chapters),
            "max_characters": max_characters,
            "sentences": sentences,
        }
        KalamangCorpus(**self.corpus_options)  # refused now

    def parts(self) -> Sequence[Part]:
        return [Part("book", KalamangCorpus, self.corpus_options, self.tasks)]
