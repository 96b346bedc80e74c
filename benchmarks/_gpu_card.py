"""The card that `gpu_figures` measures, or the CPU in its tiny mode: sizes, limits, the model that parts share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from benchmarks._models import random_llama
from lit_cartridges.estimates.chips import CHIPS
from lit_cartridges.estimates.shapes import Shape

T = TypeVar("T")


@dataclass
class Card:
    """What the parts measure on.

    Args:
        device: "cuda" or "cpu".
        tiny: sizes that a CPU takes in a second: does it run, not how fast.
        products_per_s: floating-point operations a second of matrix products as wide as the model's, once measured.
        trained_tokens_per_s: of a training step, once measured.
    """

    device: str
    tiny: bool
    products_per_s: float | None = None
    trained_tokens_per_s: float | None = None
    _begun: float = field(default_factory=time.perf_counter)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and caches."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    @property
    def size(self) -> str:
        """Of the model, one of `_models.SIZES`."""
        return "tiny" if self.tiny else "3b"

    @cached_property
    def model(self) -> PreTrainedModel:
        """Random weights, built on the device when the first part asks."""
        return random_llama(self.size, device=self.device, dtype=self.dtype)

    @property
    def shape(self) -> Shape:
        """The model's sizes."""
        return Shape.of_config(self.model.config)

    @cached_property
    def datasheet_per_s(self) -> float | None:
        """Dense 16-bit operations a second by the datasheet, where `estimates.chips` knows the card."""
        return None if self.device == "cpu" else datasheet_per_s(torch.cuda.get_device_name())

    def pick(self, full: T, tiny: T) -> T:
        """The size for a card, or that of the tiny mode."""
        return tiny if self.tiny else full

    def elapsed_s(self) -> float:
        """Since the card was taken."""
        return time.perf_counter() - self._begun


def datasheet_per_s(name: str) -> float | None:
    """Dense 16-bit operations a second of the card that calls itself so, "NVIDIA H100 80GB HBM3"; None where it is not known."""
    words = name.lower().replace("-", " ").split()
    return next((chip.bf16_tflops * 1e12 for key, chip in CHIPS.items() if key in words), None)
