"""A fork of pytest's process that never gets back into pytest."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable


def forked(work: Callable[[], int]) -> int:
    """Call ``work`` in a fork, which ends with the status that it returns, or 1 where it raises; returns the fork's number.

    What escaped there would go on as a second pytest in the fork, and report each later test once more.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    status = 1
    try:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            status = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    finally:  # a signal that raised in the line above
        os._exit(status)
