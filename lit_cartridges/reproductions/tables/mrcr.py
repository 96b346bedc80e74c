"""MRCR-like: one of many similar replies of a conversation is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from lit_cartridges.evals.tasks.mrcr import Mrcr, MrcrCorpus, Needles
from lit_cartridges.evals.tasks.ruler import LengthTokens
from lit_cartridges.reproductions.asked import Part
from lit_cartridges.reproductions.generated import GeneratedTable
from lit_cartridges.reproductions.reproduction import SMOLLM2
from lit_cartridges.settings import Count, ReadPath, checked


class MrcrTable(GeneratedTable):
    """Made conversations of similar requests, after OpenAI's MRCR; as many questions as needles.

    Args:
        needles: times that the request is made which is asked for, a column each.
        contexts: conversations of each number of needles.
        length_tokens: of a conversation, its longest question and a reply, in tokens of the model.
        score_by: "ratio": OpenAI's; "token_f1": the cartridge paper's, between ``<start>`` and ``<end>``.
        lines: a text file or a folder of them, whose sentences are the replies' lines; generated ones by default.
    """

    name = "mrcr"
    paper = "arXiv 2506.06266 (MRCR), and OpenAI's MRCR; MRCR-like, not MRCR"
    metric = "ratio of difflib (0 without the letters in front), or F1 of words; 0 to 1"
    notes = (
        "The conversations are made of templates, or of the lines that are given, and stand as one text in the system message.",
    )
    defaults: ClassVar[dict[str, Any]] = {
        "model": "Qwen/Qwen3-4B",
        "recipe": "qwen3_4b_text.yaml",
        "num_tokens": (2048,),
        "max_new_tokens": 256,
    }
    quick: ClassVar[dict[str, Any]] = {
        "model": SMOLLM2,
        "recipe": "smollm2_text.yaml",
        "num_tokens": (),
        "needles": (2,),
        "contexts": 2,
        "length_tokens": 1024,
        "max_new_tokens": 48,
    }

    @checked
    def __init__(
        self,
        *,
        needles: Sequence[Needles] = (2, 4, 8),
        contexts: Count = 10,
        length_tokens: LengthTokens = 16_384,
        score_by: Literal["ratio", "token_f1"] = "ratio",
        lines: ReadPath | None = None,
        **more: Any,
    ) -> None:
        super().__init__(**more)
        self.needles = {f"{count} needles": count for count in needles}
        self.columns, self.contexts = list(self.needles), contexts
        self.given: dict[str, Any] = {
            "model": self.model_name,
            "num_tokens": length_tokens,
            "score_by": score_by,
            "seed": self.seed,
        }
        if lines is not None:
            self.given["lines"] = str(lines)

    def texts(self, column: str) -> list[Part]:
        """See `GeneratedTable.texts`."""
        return [
            Part(f"needles_{own['needles']}_{i}", MrcrCorpus, own, {column: Mrcr(**own)})
            for i in range(self.contexts)
            for own in [self.given | {"needles": self.needles[column], "index": i}]
        ]
