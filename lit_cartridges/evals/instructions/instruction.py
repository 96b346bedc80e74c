"""What all types of instructions have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar

RELATIONS = ("at least", "less than")


class Instruction(ABC):
    """A rule for replies. A subclass is a frozen dataclass whose fields are the settings, by their names in IFEval's file.

    Raises:
        ValueError: of the constructor: a setting that the rule cannot have.
    """

    type: ClassVar[str]

    @abstractmethod
    def follows(self, reply: str) -> bool:
        """Whether the reply keeps to the rule; the reply is not blank."""


def compared(count: int, relation: str, number: int) -> bool:
    """Whether there are "at least" or "less than" so many."""
    return count >= number if relation == "at least" else count < number


def require_relation(relation: str, name: str) -> None:
    """
    Raises:
        ValueError: the relation is neither of the two.
    """
    if relation not in RELATIONS:
        raise ValueError(f"{name}={relation!r} must be one of {', '.join(RELATIONS)}")


def parts_between(reply: str, separator: str) -> list[str] | None:
    """The parts of a reply between separators (a regular expression); None where one is blank that is not at an end."""
    parts = re.split(separator, reply)
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return [part.strip() for part in parts if part.strip()]
