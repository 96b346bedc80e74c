"""A tqdm bar whose clock never jumps, and which writes no line after the other where nobody looks at a terminal.

tqdm reads the time of day. Where that is set back by an hour, its bars would stand still for that hour and show negative
times; this one counts by the clock that only goes forward.
"""

from __future__ import annotations

import os
import sys
from time import monotonic
from typing import Any

from tqdm.auto import tqdm

from lit_cartridges.terminal import printable_line

_LOG_INTERVAL_S = 30.0
_IN_NOTEBOOK = any("notebook" in one.__module__ for one in tqdm.__mro__)


class SteadyBar(tqdm):
    """tqdm's arguments, and its looks. In a file it is shown every half minute (tqdm's TQDM_MININTERVAL says otherwise, in
    seconds); in a notebook it is a widget."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        file = kwargs.get("file") or sys.stderr
        if not (_IN_NOTEBOOK or file.isatty()):
            kwargs.setdefault("mininterval", float(os.environ.get("TQDM_MININTERVAL", _LOG_INTERVAL_S)))
        # A fixed 1: tqdm's own thread shows bars with more by the time of day.
        super().__init__(*args, **{"miniters": 1, **kwargs})
        self._time = monotonic
        self.start_t = self.last_print_t = monotonic()

    def touch(self, *, changed: bool = False) -> None:
        """Show what it says by now, unless it has just been shown; what has ``changed``, at once on a terminal."""
        due = monotonic() - self.last_print_t >= self.mininterval
        if due or (changed and self.mininterval < 1):
            self.refresh()
            self.last_print_t = monotonic()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm shows, names of others among it."""
        shown = super().format_dict
        return shown | {name: printable_line(shown[name] or "") for name in ("prefix", "postfix")}
