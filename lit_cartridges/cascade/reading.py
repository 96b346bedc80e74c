"""Letting a frozen model read a cascade for the length of a ``with``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_cartridges.attention import attends_by
from lit_cartridges.cascade.attention import NAME
from lit_cartridges.cascade.cascade_layer import CascadeLayer, CascadeStep
from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.cascade.rotation import Rotation
from lit_cartridges.cascade.shape import CascadeShape


class CascadeReading:
    """One forward call's reading of a cascade. What all layers of a shape have in common is made once."""

    def __init__(self, cache: CascadingCache, rotation: Rotation) -> None:
        self.cache, self.rotation = cache, rotation
        self._real: Tensor | None = None
        self._steps: dict[tuple[CascadeShape, int], CascadeStep] = {}

    def read(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        real: Tensor | None,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Stride by stride: attend, update the scores, insert. Output [R, heads, q, head_dim]."""
        part, rotate = self.cache.layers[layer], partial(self.rotation.rotate, layer)
        out = []
        for start in range(0, query.shape[2], self.cache.stride_tokens):
            stride = slice(start, start + self.cache.stride_tokens)
            step = self._step(part, start, stride, key, real)
            tensors = (x[:, :, stride] for x in (query, key, value))
            scores: Any = {"scale": scale, "window": window, "softcap": softcap, "sinks": sinks}
            out.append(part.read(*tensors, step=step, rotate=rotate, **scores))
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)

    def _step(
        self, layer: CascadeLayer, start: int, stride: slice, key: Tensor, real: Tensor | None
    ) -> CascadeStep:
        if self._real is None:  # the same in all layers, and copied off the accelerator once
            everywhere = torch.ones(key.shape[0], key.shape[2], dtype=torch.bool)
            self._real = everywhere if real is None else real.bool().cpu()
        id_ = (layer.shape, start)
        if id_ not in self._steps:
            self._steps[id_] = CascadeStep.of(
                layer.shape,
                layer.seen,
                layer.counts,
                self._real[:, stride],
                ema_factor=self.cache.ema_factor,
                device=key.device,
            )
        return self._steps[id_]


@contextmanager
def reads_cascades(model: PreTrainedModel) -> Iterator[None]:
    """Inside, ``model`` takes a `CascadingCache` as ``past_key_values``, in forward calls and in ``model.generate``.

    The model's attention function, its rotation and its forward calls are its own again afterwards. ``position_ids`` mean
    nothing inside: the cascade gives every token its position.

    Raises:
        ValueError: the model's positions are not rotary (see `Rotation`); inside, a forward call without a cascade.
    """
    if model.config._attn_implementation == NAME:
        yield
        return
    rotation = Rotation.of(model)

    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, CascadingCache):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}; inside reads_cascades(model) every call takes "
                "past_key_values=CascadingCache(...)"
            )
        if len(cache.layers) != len(rotation.rotated):
            raise ValueError(
                f"the cascade has {len(cache.layers)} layers and {type(model).__name__} has {len(rotation.rotated)}; make it "
                "from this model's config"
            )
        cache.is_being_read = True
        return args, kwargs | {"cascade": CascadeReading(cache, rotation)}

    def end(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, CascadingCache):
            cache.is_being_read = False

    with attends_by(model, NAME), rotation.suspended():
        base = model.base_model
        before = base.register_forward_pre_hook(begin, with_kwargs=True)
        after = base.register_forward_hook(end, with_kwargs=True, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
