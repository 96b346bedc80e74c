"""What can go wrong between a run and its teacher's servers: named, counted, and logged without repeating itself.

docs/teachers.md has a table of all kinds and what is done about each.
"""

from __future__ import annotations

import logging

_log = logging.getLogger(__name__)


class ServerFault(Exception):
    """A request came to nothing, and is worth another attempt.

    Attributes:
        kind: what it is counted as.
        after_s: when the server wants to be asked again; None where it does not say.
        server_down: the server itself fails, so others get its requests for a while.
    """

    def __init__(
        self, kind: str, message: str, *, after_s: float | None = None, server_down: bool = False
    ) -> None:
        super().__init__(message)
        self.kind, self.after_s, self.server_down = kind, after_s, server_down


class FaultyReply(ServerFault):
    """A server answered, and the answer cannot be used. Another server, or another attempt, may do better."""


class FaultLog:
    """Counts by kind, and a log that stays readable."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._told: dict[tuple[str, str], int] = {}

    def note(self, kind: str, server: str, message: str) -> None:
        """Count one fault, and tell of it."""
        self.count(kind)
        self.tell(kind, server, message)

    def count(self, kind: str) -> None:
        """Count what is no news."""
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def tell(self, kind: str, server: str, message: str) -> None:
        """Of each kind at each server the 1st, 10th, 100th, … goes into the log."""
        times = self._told[server, kind] = self._told.get((server, kind), 0) + 1
        if str(times).rstrip("0") == "1":
            so_far = "" if times == 1 else f" ({times} times so far)"
            _log.warning("teacher %s: %s%s: %s", server, kind, so_far, message)
