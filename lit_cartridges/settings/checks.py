"""What a setting's value must be beside its type, and names for the usual cases.

They stand in the signatures of constructors and commands, where `checked` reads them; to a type checker they are plain
numbers and texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal


class Check(ABC):
    """A condition on a value whose type is right already."""

    @abstractmethod
    def problem(self, value: Any) -> str | None:
        """What the value must be ("must be at least 1"), or None where it is that."""


@dataclass(frozen=True, kw_only=True)
class Range(Check):
    """A number between bounds; None is no bound.

    Args:
        least, most: the bounds, which are allowed.
        above, below: bounds that are not.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if self.least is not None and value < self.least:
            return f"must be at least {self.least}"
        if self.above is not None and value <= self.above:
            return f"must be above {self.above}"
        if self.most is not None and value > self.most:
            return f"must be at most {self.most}"
        if self.below is not None and value >= self.below:
            return f"must be below {self.below}"
        return None


@dataclass(frozen=True)
class Device(Check):
    """A torch device that this machine has."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if value == "auto":
            return None
        import torch  # here, so that a command's parser, which takes its types from this file, needs no torch

        try:
            device = torch.device(value)
        except RuntimeError:
            return "must be auto, cpu, cuda, cuda:1, …"
        if device.type == "cpu":
            return None if device.index in (None, 0) else "there is one CPU device; write cpu"
        if device.type == "cuda":
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            if count == 0:
                return "this machine has no CUDA device that torch can use; choose cpu, or auto"
            last = f"this machine's CUDA devices are cuda:0 to cuda:{count - 1}"
            return None if (device.index or 0) < count else last
        backend = getattr(torch, device.type, None) or getattr(torch.backends, device.type, None)
        there = getattr(backend, "is_available", lambda: False)
        return None if there() else f"this machine has no {device.type} device; choose cpu, or auto"


@dataclass(frozen=True)
class Holding(Check):
    """A text with some part in it, once."""

    part: str

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        return None if value.count(self.part) == 1 else f"must hold {self.part} exactly once"


# Above what a tensor's side or a count can sensibly be, and below what an index holds.
_MOST = 2**31 - 1

PositiveInt = Annotated[int, Range(least=1, most=_MOST)]
NonNegativeInt = Annotated[int, Range(least=0, most=_MOST)]
Count = Annotated[int, Range(least=1, most=1_000_000)]
"""Of things that are made one by one before anything else goes on."""
BatchTokens = Annotated[int, Range(least=2, most=2**24)]
"""Of a packed batch: a prompt and an answer token at least, and no more than any device reads at once."""
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]
PositiveFloat = Annotated[float, Range(above=0, most=1e9)]
NonNegativeFloat = Annotated[float, Range(least=0, most=1e9)]
Times = Annotated[float, Range(above=0, most=10)]
Processes = Annotated[int, Range(least=1, most=1_000)]
Share = Annotated[float, Range(least=0, most=1)]
PositiveShare = Annotated[float, Range(above=0, most=1)]
OpenShare = Annotated[float, Range(above=0, below=1)]
Fraction = Annotated[float, Range(least=0, below=1)]
"""Of a whole of which something else is a part too."""
Decay = Annotated[float, Range(least=0, below=1)]
"""Of a moving average."""
Temperature = Annotated[float, Range(least=0, most=100)]
"""0 is greedy."""
ChunkTemplate = Annotated[str, Holding("{chunk}")]
DeviceName = Annotated[str, Device()]
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
