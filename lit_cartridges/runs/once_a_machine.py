"""What one process of a machine does for all of a run's processes there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed

from lit_cartridges.errors import CartridgesError

T = TypeVar("T")


def once_a_machine(make: Callable[[], T]) -> T:
    """What ``make`` returns in the first process of this machine, for all of them; all processes of a run call this together.

    Machines are told apart by what the loopback interface reaches, so that containers count as such.

    Raises:
        CartridgesError: ``make`` raised in another process. In its own process, what it raised.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return make()
    machines, rank = _gathered(_machine()), distributed.get_rank()
    first = machines.index(machines[rank])
    made: Any = None
    failed: Exception | None = None
    if first == rank:
        try:
            made = make()
        except Exception as error:
            failed = error
    outcomes = _gathered((made, None if failed is None else str(failed)))
    if failed is not None:
        raise failed
    for other, (_, why) in enumerate(outcomes):
        if why is not None:
            raise CartridgesError(f"process {other} of this run: {why}")
    return outcomes[first][0]


def _machine() -> tuple[str, ...]:
    parts = [socket.gethostname()]
    with suppress(OSError):  # Linux
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/net")]
    return tuple(parts)


def _gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found
