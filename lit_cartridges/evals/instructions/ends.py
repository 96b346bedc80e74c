"""How a reply begins and ends."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction


@dataclass(frozen=True, kw_only=True)
class EndChecker(Instruction):
    """The reply ends with this phrase; case, and quotation marks around the reply, do not matter."""

    type = "startend:end_checker"
    end_phrase: str

    def follows(self, reply: str) -> bool:
        return reply.strip().strip('"').lower().endswith(self.end_phrase.strip().lower())


@dataclass(frozen=True, kw_only=True)
class Quotation(Instruction):
    """The reply stands between double quotation marks."""

    type = "startend:quotation"

    def follows(self, reply: str) -> bool:
        text = reply.strip()
        return len(text) > 1 and text[0] == text[-1] == '"'
