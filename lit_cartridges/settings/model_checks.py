"""What the settings of how a model is loaded must be, as far as that can be told before it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from lit_cartridges.settings.checks import Check, Device

_SPREADINGS = ("auto", "balanced", "balanced_low_0", "sequential")
_QUANTISES = ("quant_method", "load_in_4bit", "load_in_8bit")


@dataclass(frozen=True)
class Spreading(Check):
    """How accelerate spreads a model: a word of its own, a device, or a device per module."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if isinstance(value, str):
            if value in _SPREADINGS:
                return None
            why = Device().problem(value)
            return why and f"must be {', '.join(_SPREADINGS)}, a device, or a device per module: {why}"
        for module, device in value.items():
            if device != "disk" and (why := Device().problem(device)) is not None:
                return f"must give each module a device, or disk; for {module!r} {why}"
        return None


@dataclass(frozen=True)
class Quantising(Check):
    """A quantisation as transformers takes it."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        if any(name in value for name in _QUANTISES):
            return None
        return f"must hold one of {', '.join(_QUANTISES)}, such as {{load_in_4bit: true}}"


DeviceMap = Annotated[str | dict[str, int | str], Spreading()]
QuantizationConfig = Annotated[dict[str, Any], Quantising()]
