"""How a reply begins and ends, and two replies in one."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction, parts_between


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


@dataclass(frozen=True, kw_only=True)
class TwoResponses(Instruction):
    """Two different replies with six asterisks between them."""

    type = "combination:two_responses"

    def follows(self, reply: str) -> bool:
        parts = parts_between(reply, r"\*{6}")
        return parts is not None and len(parts) == 2 and parts[0] != parts[1]


@dataclass(frozen=True, kw_only=True)
class RepeatPrompt(Instruction):
    """The reply begins with the request, word for word; case does not matter."""

    type = "combination:repeat_prompt"
    prompt_to_repeat: str

    def follows(self, reply: str) -> bool:
        return reply.strip().lower().startswith(self.prompt_to_repeat.strip().lower())
