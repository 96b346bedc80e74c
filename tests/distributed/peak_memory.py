"""How much resident memory a piece of work takes, as the kernel counts it: pages of mapped files that were read included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_SELF = Path("/proc/self")


class PeakMemory:
    """Inside the ``with``, the most bytes resident above those at its start.

    Attributes:
        peak_bytes: known after the ``with``.
    """

    peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        (_SELF / "clear_refs").write_text("5")  # sets the peak to what is resident now
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *error: Any) -> None:
        self.peak_bytes = _resident("VmHWM") - self._before


def _resident(field: str) -> int:
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
