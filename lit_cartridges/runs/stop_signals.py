"""Ctrl-C and SIGTERM as a wish to stop, which whoever asks for it may grant between two optimizer steps."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)


class StopSignals:
    """Takes both signals over between `take` and `give_back`; the first asks to stop, a second Ctrl-C stops at once.

    Attributes:
        interrupted: one of them has come.
        terminated: SIGTERM has, which a cluster sends before it takes a node away.
    """

    def __init__(self) -> None:
        self.interrupted = self.terminated = False
        self._handlers: dict[signal.Signals, Any] = {}

    def take(self) -> None:
        """From here on; in another thread than the main one Python takes no signals, and nothing happens."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._come) for s in (signal.SIGINT, signal.SIGTERM)}

    def give_back(self) -> None:
        """To those who had them."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def agree(self, decide: Callable[..., bool]) -> bool:
        """Whether to stop, the same on all processes, whichever of them was told.

        Args:
            decide: a strategy's ``reduce_boolean_decision``.
        """
        self.interrupted = decide(self.interrupted, all=False)
        if self.interrupted:
            self.terminated = decide(self.terminated, all=False)
        return self.interrupted

    def forget(self) -> None:
        """What came when nothing was left to stop."""
        self.interrupted = self.terminated = False

    def _come(self, signum: int, frame: Any) -> None:
        if self.interrupted and signum == signal.SIGINT:
            self.give_back()
            raise KeyboardInterrupt
        self.interrupted, self.terminated = True, signum == signal.SIGTERM
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        _log.warning(
            "%s: finishing this optimizer step and saving; press Ctrl-C (again) to stop at once", name
        )
