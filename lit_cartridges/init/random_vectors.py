"""Start from noise."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint
from lit_cartridges.init.init_strategy import InitContext, InitialTensors, InitStrategy
from lit_cartridges.init.token_strategy import repeated
from lit_cartridges.settings import PositiveFloat, checked

_WINDOWS = 8


class RandomVectors(InitStrategy):
    """Keys and values drawn from normal distributions, at all positions, those of the frozen sink among them.

    Args:
        scale: "unit", the paper's control (arXiv 2506.06266, §5.2): mean 0 and standard deviation 1 everywhere.
            "matched", ours: mean and standard deviation of what the model itself makes of the corpus, per layer, head
            and channel. Per channel, since a head's keys have a few channels far larger than the rest, and those that
            RoPE turns slowly keep a mean; one number per head would give neither.
        std: factor on the standard deviation.
    """

    @checked
    def __init__(self, *, scale: Literal["unit", "matched"] = "unit", std: PositiveFloat = 1.0) -> None:
        self.scale, self.std = scale, std

    def tensors(self, context: InitContext) -> InitialTensors:
        """See `InitStrategy.tensors`."""
        shape = Fingerprint.of_config(context.model.config)
        size = (shape.num_kv_heads, context.num_tokens, shape.head_dim)
        # Drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(context.seed)
        keys, values = (
            [
                torch.randn(size, generator=generator, dtype=torch.float32).to(context.model.device)
                * self.std
                for _ in range(shape.num_layers)
            ]
            for _ in range(2)
        )
        if self.scale == "matched":
            means, stds = self._statistics(context)
            scaled = [x * std + mean for x, mean, std in zip(keys + values, means, stds, strict=True)]
            keys, values = scaled[: shape.num_layers], scaled[shape.num_layers :]
        return InitialTensors(keys, values)

    @staticmethod
    def _statistics(context: InitContext) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and standard deviation [kv_heads, 1, head_dim], fp32, of all layers' keys, then of all their values.

        Measured on windows that lie evenly over the corpus. Each is read behind the template's opening at the
        positions that the cartridge will have, since RoPE makes keys depend on them; the opening itself, with the
        sink's very different vectors, does not count.
        """
        opening, corpus = [int(i) for i in context.opening_ids], context.corpus_ids
        length = max(1, min(context.num_tokens - len(opening), len(corpus)))
        number = min(_WINDOWS, max(1, len(corpus) // length))
        starts = [round(i * (len(corpus) - length) / max(1, number - 1)) for i in range(number)]
        windows: list[list[tuple[Tensor, Tensor]]] = []
        for start in context.bar(starts, "statistics"):
            ids = repeated(corpus[start : start + length], length, of="the corpus")
            seen = [
                x[:, len(opening) :].float() for side in prefill(context.model, opening + ids) for x in side
            ]
            windows.append([torch.var_mean(x, dim=1, keepdim=True, correction=0) for x in seen])
        means, stds = [], []
        for parts in zip(*windows, strict=True):
            variances, averages = (torch.stack(side) for side in zip(*parts, strict=True))
            means.append(averages.mean(0))
            # Windows are equally long, so the variance over all is that inside them and that between their means.
            stds.append((variances.mean(0) + averages.var(0, correction=0)).sqrt())
        return means, stds

    def describe(self) -> str:
        """The class, and the scale where it is not the paper's."""
        return "RandomVectors" if self.scale == "unit" else f"RandomVectors({self.scale})"
