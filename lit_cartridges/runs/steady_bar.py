"""A tqdm bar whose clock never jumps.

tqdm reads the time of day. Where that is set back by an hour, its bars would stand still for that hour and show negative
times; this one counts by the clock that only goes forward.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from tqdm.auto import tqdm

from lit_cartridges.terminal import printable_line


class SteadyBar(tqdm):
    """tqdm's arguments, and its looks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._time = monotonic
        self.start_t = self.last_print_t = monotonic()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm shows, names of others among it."""
        shown = super().format_dict
        return shown | {name: printable_line(shown[name] or "") for name in ("prefix", "postfix")}
