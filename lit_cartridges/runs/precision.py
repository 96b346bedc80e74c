"""Which numbers are computed in which dtype: frozen weights in ``model.dtype``; cartridge, moments and losses in fp32.

Lightning's precision plugins know one dtype for all of a module. What they would do to this one: ``bf16-true``, ``16-true``
and ``64-true`` convert the cartridge, and Adam's moments with it; the mixed ones autocast the student's forward call and
leave the teacher, which writes while batches are fetched, in another precision; Transformer Engine and bitsandbytes replace
layers of the frozen model.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from lightning.pytorch.plugins import BitsandbytesPrecision
from torch import nn

FULL: Final = "32-true"


def require_full_precision(precision: Any) -> None:
    """Refuse whatever is not fp32 for all that is trained.

    Args:
        precision: ``trainer.precision`` as it was given, or a precision plugin.

    Raises:
        ValueError: another one; the message names the setting to use.
    """
    if precision in (None, FULL, "32", 32) or (
        getattr(precision, "precision", None) == FULL and not isinstance(precision, BitsandbytesPrecision)
    ):
        return
    known = precision if isinstance(precision, str | int) else getattr(precision, "precision", None)
    name = repr(known) if known not in (None, FULL) else type(precision).__name__
    raise ValueError(
        f"trainer.precision={name}: cartridges are trained in fp32, and the frozen model has a dtype of its own; leave "
        "trainer.precision at 32-true and set model.dtype (auto, float32, bfloat16 or float16)"
    )


def require_no_autocast(device: torch.device) -> None:
    """Refuse to train inside ``torch.autocast``.

    Raises:
        ValueError: it is on, for the CPU or for ``device``.
    """
    for kind in {"cpu", device.type} - {"meta"}:
        if torch.is_autocast_enabled(kind):
            raise ValueError(
                f"torch.autocast({kind!r}) is on around this run, and would change the precision of the student and not of "
                "the teacher; leave it out and set model.dtype"
            )


def require_fp32(cartridge: nn.Module) -> None:
    """Refuse to train a cartridge that something has converted; Adam's moments take the parameters' dtype.

    Raises:
        ValueError: a parameter has another dtype.
    """
    for name, parameter in cartridge.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"the cartridge's {name} is {parameter.dtype}, and is trained in fp32: do not convert the module, and leave "
                "trainer.precision at 32-true; model.dtype sets that of the frozen model"
            )
