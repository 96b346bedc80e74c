"""What a thread does on the device that a model is on, beside the steps that train there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import torch


class Turn:
    """A lock, which in another process is another one."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Turn, ()


@contextmanager
def beside_training(device: torch.device) -> Iterator[None]:
    """Inside the ``with``, this thread's work goes into a stream of its own, and is done when it ends.

    It begins behind what the device has been given so far. Only CUDA has streams; elsewhere this changes nothing.
    """
    if device.type != "cuda":
        yield
        return
    stream = _stream(torch.device(device.type, device.index or 0))
    stream.wait_stream(torch.cuda.default_stream(stream.device))
    with torch.cuda.stream(stream):  # and its device, which is a thread's own too
        try:
            yield
        finally:
            stream.synchronize()


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all rounds: memory that was used in a stream is used again in that stream only."""
    return torch.cuda.Stream(device)
