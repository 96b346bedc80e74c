"""What starting a cartridge costs: seconds, and the memory that is needed beside the model."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class InitCost:
    """Filled when `measured_init` ends.

    Attributes:
        seconds: wall-clock time of the strategy, the model calls that it waits for included.
        peak_memory_bytes: the most that was held during the strategy beyond what was held before it.
    """

    seconds: float = float("nan")
    peak_memory_bytes: float = float("nan")

    @property
    def figures(self) -> dict[str, float]:
        """By their logged names."""
        return {"init/seconds": self.seconds, "init/peak_memory_bytes": self.peak_memory_bytes}


@contextmanager
def measured_init(device: torch.device) -> Iterator[InitCost]:
    """Measures its body on ``device``.

    Peak memory is that of the allocator on CUDA, and this process' resident memory otherwise. For the latter the kernel's
    high-water mark is set back through ``/proc/self/clear_refs``; where that is not possible (other systems, some
    containers) the growth of the mark since the process began stands in: a lower bound, 0 where loading the model had
    taken more. On either device the mark that other figures read starts anew here.
    """
    cost = InitCost()
    memory = _CudaMemory(device) if device.type == "cuda" else _ResidentMemory()
    begun = perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = perf_counter() - begun
    cost.peak_memory_bytes = memory.growth_bytes()


class _CudaMemory:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        self.before = torch.cuda.memory_allocated(device)

    def growth_bytes(self) -> float:
        return float(torch.cuda.max_memory_allocated(self.device) - self.before)


class _ResidentMemory:
    def __init__(self) -> None:
        _give_back_freed_pages()
        _reset_high_water_mark()
        self.before = resident_peak_bytes()

    def growth_bytes(self) -> float:
        return max(0.0, resident_peak_bytes() - self.before)


def resident_peak_bytes() -> float:
    """The most that was resident in this process; where /proc does not tell it, a parent's peak before this one started too."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * float(unit)


def _reset_high_water_mark() -> None:
    """To what is resident now, where the kernel lets us."""
    with suppress(OSError):
        _CLEAR_REFS.write_text("5")


def _give_back_freed_pages() -> None:
    """Else a strategy could reuse, unseen, what loading the model has freed."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # glibc alone has it
        return
