"""How a cartridge starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_cartridges.errors import SettingError
from lit_cartridges.init import INITS
from lit_cartridges.reproductions.reproduction import Published
from lit_cartridges.reproductions.variants import Variant, Variants
from lit_cartridges.settings import checked

_TEXT = "arXiv 2506.06266, its text; LongHealth, Llama-3.2-3B-Instruct; in per cent there"


class Inits(Variants):
    """Init strategies, trained on the same conversations; `compare-inits` shows how they learn, step by step.

    Args:
        inits: names of strategies. Options of theirs are options of ``fit``.
    """

    name = "inits"
    paper = "arXiv 2506.06266, ablation of the initialization"
    published = (
        Published("RandomVectors", "accuracy", 0.299, _TEXT),
        Published("RandomTokens", "accuracy", 0.513, _TEXT),
        Published("FirstTokens", "accuracy", 0.553, _TEXT),
    )

    @checked
    def __init__(
        self, *, inits: Sequence[str] = ("RandomVectors", "RandomTokens", "FirstTokens"), **more: Any
    ) -> None:
        super().__init__(**more)
        if unknown := [name for name in inits if name not in INITS]:
            raise SettingError(f"{unknown[0]!r} is none; there are {', '.join(INITS)}", inits=list(inits))
        self.inits = inits

    def variants(self) -> Sequence[Variant]:
        return [Variant(name, (f"--model.init={name}",)) for name in self.inits]
