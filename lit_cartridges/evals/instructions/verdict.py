"""A reply judged by the instructions of its prompt, strictly and loosely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_cartridges.evals.instructions.instruction import Instruction


@dataclass(frozen=True)
class Verdict:
    """Which of a prompt's instructions a reply follows, in their order; a blank reply follows none.

    Args:
        strict: the reply as it is.
        loose: the reply, or one of its `variants`.
    """

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]

    @classmethod
    def of(cls, instructions: Sequence[Instruction], reply: str) -> Verdict:
        """The verdict on one reply."""
        tried = variants(reply)
        followed = [[one.follows(text) for text in tried if text.strip()] for one in instructions]
        blank = not reply.strip()
        return cls(
            tuple(not blank and found[0] for found in followed), tuple(any(found) for found in followed)
        )


def variants(reply: str) -> list[str]:
    """The reply, and seven ways to read it kindly: without asterisks, its first line, its last line, and all of these.

    So "Sure, here it is:", a closing remark and Markdown's emphasis break no rule.
    """
    lines = reply.split("\n")
    kept = [reply, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*kept, *(text.replace("*", "") for text in kept)]
