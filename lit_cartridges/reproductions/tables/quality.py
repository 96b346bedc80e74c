"""QuALITY: a cartridge an article, as Attention Matching and Cartridges++ compare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from lit_cartridges.evals.tasks.quality import Quality, QualityCorpus
from lit_cartridges.reproductions.asked import AskedReproduction, Part
from lit_cartridges.reproductions.reproduction import SMOLLM2, Published
from lit_cartridges.reproductions.tables.longhealth import MATCHING_NOTE
from lit_cartridges.settings import ReadFile, checked

ARTICLES = (
    *("52845", "30029", "62139", "63523", "63401", "62476", "63041", "30035", "61285", "62261"),
    *("62314", "61430", "52855", "62085", "62498", "61119", "63616", "61467", "60412", "63855"),
)
_THIRD = "arXiv 2602.16284 by a third party; Qwen3-4B, 50 articles at 50 times fewer positions"


class QualityTable(AskedReproduction):
    """Multiple-choice questions about articles, each with a cartridge of its own.

    Args:
        path: QuALITY's dev file (.jsonl of github.com/nyu-mll/quality), which you bring.
        articles: ids; by default the twenty of Cartridges++. None for all.
        style: how questions are asked and graded.
    """

    name = "quality"
    paper = "arXiv 2602.16284, QuALITY (arXiv 2112.08608)"
    metric = "share of right replies, samples averaged within a question"
    published = tuple(
        Published(row, "accuracy", value, _THIRD)
        for row, value in (
            ("icl", 0.715),
            ("no_context", 0.42),
            ("Attention Matching (62 to 65), and cartridges", 0.635),
            ("summaries", 0.55),
        )
    )
    notes: tuple[str, ...] = ("A row's positions and bytes are means over articles.", MATCHING_NOTE)
    defaults: ClassVar[dict[str, Any]] = {
        "model": "Qwen/Qwen3-4B",
        "recipe": "qwen3_4b_text.yaml",
        "num_tokens": (128,),
        "max_new_tokens": 2048,
        "enable_thinking": True,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "recipe": "smollm2_text.yaml",
        "fit": ("--data.groups_per_round=2",),
        "num_tokens": (128,),
        "steps": 20,
        "systems": ("truncated_icl", "no_context"),
        "max_context_tokens": 2048,
        "articles": ARTICLES[:1],
        "num_questions": 4,
        "max_new_tokens": 32,
    }

    @checked
    def __init__(
        self,
        *,
        path: ReadFile,
        articles: Sequence[str | int] | None = ARTICLES,
        style: Literal["letters", "cartridges", "attention_matching"] = "attention_matching",
        **more: Any,
    ) -> None:
        super().__init__(**more)
        chosen = None if articles is None else list(articles)
        self.path, self.style = path, style
        whole = Quality(path=path, articles=chosen).questions()
        self.articles = list(dict.fromkeys(one.group for one in whole))

    def parts(self) -> Sequence[Part]:
        return [
            Part(
                name,
                QualityCorpus,
                {"path": str(self.path), "articles": [name]},
                {"accuracy": Quality(path=self.path, articles=[name], style=self.style)},
            )
            for name in self.articles
        ]
