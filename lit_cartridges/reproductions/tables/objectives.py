"""What a cartridge is trained to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from lit_cartridges.reproductions.reproduction import Published
from lit_cartridges.reproductions.variants import Variant, Variants
from lit_cartridges.settings import Range, checked

_TEXT = "arXiv 2506.06266, its text; MTOB, Llama-3.1-8B-Instruct"


class Objectives(Variants):
    """Self-study with distillation, self-study without it, and the next token of the corpus.

    Args:
        window_tokens: of the corpus that is trained on as it is.
    """

    name = "objectives"
    paper = "arXiv 2506.06266, ablation of the objective"
    published = (
        Published("self-study, next token", "chrF on MTOB", 24.9, _TEXT),
        Published("self-study, distillation", "chrF on MTOB", 33.5, _TEXT),
    )
    quick: ClassVar[dict[str, Any]] = {**Variants.quick, "window_tokens": 256}
    notes = (*Variants.notes, "The paper compares them on MTOB, whose files are encrypted.")

    @checked
    def __init__(
        self, *, window_tokens: Annotated[int, Range(least=2, most=2**31 - 1)] = 2048, **more: Any
    ) -> None:
        super().__init__(**more)
        self.window_tokens = window_tokens

    def variants(self) -> Sequence[Variant]:
        corpus = ("--data.source=RawCorpus", f"--data.source.window_tokens={self.window_tokens}")
        return [
            Variant("self-study, distillation", ("--model.objective=TopKDistillation",)),
            Variant("self-study, next token", ("--model.objective=NextToken",)),
            Variant("corpus, next token", ("--model.objective=NextToken", *corpus), made_with=None),
        ]
