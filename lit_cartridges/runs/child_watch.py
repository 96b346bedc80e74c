"""Watches over a program: it ends, with all that it started, when the process that wanted it is gone, killed even.

A program of its own, run by its path with nothing but the standard library (`child_process` starts it):

    python -I child_watch.py PARENT_PID GRACE_S COMMAND…

SIGTERM ends the program: it is asked to, and killed after GRACE_S; SIGQUIT kills it at once. What it left behind is killed in
any case. The exit status is the program's, 128 + N where signal N ended it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

_LOOK_S = 0.2
_PR_SET_PDEATHSIG = 1


def main(parent: int, grace_s: float, command: list[str]) -> int:
    """Run ``command`` for as long as ``parent`` lives."""
    wanted = True

    def no_longer(number: int, _: object) -> None:
        nonlocal wanted, grace_s
        wanted = False
        if number == signal.SIGQUIT:
            grace_s = 0.0

    signal.signal(signal.SIGTERM, no_longer)
    signal.signal(signal.SIGQUIT, no_longer)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A group of its own, so that a signal reaches all of it and not this process.
    child = subprocess.Popen(command, process_group=0, preexec_fn=_end_with_this_process)
    while wanted and os.getppid() == parent and child.poll() is None:
        time.sleep(_LOOK_S)
    if child.poll() is None and grace_s:
        _signal(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    _signal(child.pid, signal.SIGKILL)
    status = child.wait()
    return status if status >= 0 else 128 - status


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _end_with_this_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Linux: should this process be killed, nobody would be left to end the program.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
