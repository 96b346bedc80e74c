"""A reply without commas."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction


@dataclass(frozen=True, kw_only=True)
class NoComma(Instruction):
    """No comma of the Latin script."""

    type = "punctuation:no_comma"

    def follows(self, reply: str) -> bool:
        return "," not in reply
