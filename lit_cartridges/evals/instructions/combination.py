"""Two replies in one, and the request repeated before the reply."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction, parts_between


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
