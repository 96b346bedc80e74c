"""Several servers with the same model, each request to the one that has least to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_LONGEST_DOWN_S = 300.0


@dataclass(slots=True, eq=False)
class Server:
    """One server.

    Attributes:
        url: its address.
        in_flight: requests that it is working on.
        down_until_s: until when it is left out (monotonic clock).
        failures: times running that it was left out because it failed; 0 once it has answered.
        checked: whether its model has been found to be the right one.
        check: the check that is under way.
    """

    url: str
    in_flight: int = 0
    down_until_s: float = 0.0
    failures: int = 0
    checked: bool = False
    check: asyncio.Task[None] | None = None


class ServerPool:
    """Balances requests. Used from one event loop only, so nothing is locked."""

    def __init__(self, urls: Sequence[str], *, down_s: float) -> None:
        """
        Args:
            urls: base addresses.
            down_s: how long a server that failed is left out, unless all have failed; doubled each time running, to
                at most five minutes.
        """
        self.servers = [Server(url) for url in urls]
        self.down_s = down_s

    @contextmanager
    def borrow(self, avoid: Server | None = None) -> Iterator[Server]:
        """A server for one request: least in flight among those that are up, else the one that is back soonest.

        A server that comes back gets one request, and more once that was answered. `avoid` is taken where no other is up.
        """
        up = self.up()
        others = [server for server in up if server is not avoid]
        if up:
            server = min(others or up, key=lambda s: s.in_flight)
        else:
            server = min(self.servers, key=lambda s: s.down_until_s)
        server.in_flight += 1
        try:
            yield server
        finally:
            server.in_flight -= 1

    def up(self) -> list[Server]:
        """The servers that take requests."""
        now = time.monotonic()
        return [s for s in self.servers if s.down_until_s <= now and not (s.failures and s.in_flight)]

    def works(self, server: Server) -> bool:
        """A server has answered. Was it taken for failing until now?"""
        failed, server.failures, server.down_until_s = bool(server.failures), 0, 0.0
        return failed

    def leave_out(self, server: Server) -> None:
        """Sends no requests to a server that fails, for a while."""
        now = time.monotonic()
        if server.down_until_s <= now:  # requests that fail together count as one failure
            doubled = 2.0 ** min(server.failures, 30)  # a dead server fails without end
            server.failures += 1
            server.down_until_s = now + min(self.down_s * doubled, _LONGEST_DOWN_S)

    def pause(self, server: Server, pause_s: float) -> None:
        """Sends no requests to a server that has too much to do, until it has time again.

        Not longer than a failing one is left out: a Retry-After that is a date means hours where two clocks differ by hours.
        """
        until_s = time.monotonic() + min(pause_s, _LONGEST_DOWN_S)
        server.down_until_s = max(server.down_until_s, until_s)
