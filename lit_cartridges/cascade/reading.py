"""Letting a frozen model read a cascade for the length of a ``with``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention.cache_argument import CACHE_NAME, cache_among
from lit_cartridges.attention.extras import AttentionExtras, known_extras
from lit_cartridges.attention.model_calls import attends_to_calls, brings
from lit_cartridges.attention.readers import LayerCall
from lit_cartridges.cascade.cascade_layer import CascadeLayer
from lit_cartridges.cascade.cascade_step import CascadeStep
from lit_cartridges.cascade.cascading_cache import CascadingCache
from lit_cartridges.cascade.ring_clock import RingClock, RingStep
from lit_cartridges.cascade.rotation import Rotation
from lit_cartridges.cascade.shape import CascadeShape
from lit_cartridges.models.readable import unwrapped


class CascadeReading:
    """One forward call's reading of a cascade (see `CallReader`). What layers of one shape share is made once."""

    unrotated = True

    def __init__(self, cache: CascadingCache, rotation: Rotation) -> None:
        self.cache, self.rotation = cache, rotation
        cache.is_being_read = True
        self._begun = self._done = 0  # layers
        self._real: Tensor | None = None
        self._steps: dict[tuple[CascadeShape, int], CascadeStep] = {}
        self._clocks: dict[CascadeShape, RingClock] = {}
        self._ring_steps: dict[int, RingStep] = {}

    @property
    def asks_no_device(self) -> bool:
        """Whether masks of single tokens are read where they are (see `model_calls`)."""
        return all(layer.ring is not None for layer in self.cache.layers)

    def end(self) -> None:
        """See `CallReader`."""
        self.cache.is_being_read = False
        self.cache.broke_off = self._done != self._begun or self._done not in (0, len(self.cache.layers))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall) -> Tensor:
        """Stride by stride: attend, update the scores, insert. Output [R, heads, q, head_dim]; nothing is rotated yet."""
        extras = known_extras(call)
        if call.real is not None and call.real.shape[1] != query.shape[2]:
            raise ValueError(
                f"attention_mask has shape {tuple(call.real.shape)} for {query.shape[2]} new tokens; a model that reads a "
                "cascade takes [batch, tokens] of the new tokens, or of all tokens so far"
            )
        part = self.cache.layers[call.layer]
        same_dtype = part.dtype == key.dtype  # under autocast they may differ
        part.require_same_heads(key)
        self._begun += 1
        if query.shape[2] == 1 and part.is_full and same_dtype and not _wants_gradients(query, key, value):
            out = [self._read_token(part, query, key, value, call, extras)]
        else:
            out = self._read_strides(part, query, key, value, call, extras)
        self._done += 1
        return out[0] if len(out) == 1 else torch.cat(out, dim=2)

    def _read_strides(
        self,
        part: CascadeLayer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        call: LayerCall,
        extras: AttentionExtras,
    ) -> list[Tensor]:
        rotate, out = partial(self.rotation.rotate, call.layer), []
        for start in range(0, query.shape[2], self.cache.stride_tokens):
            stride = slice(start, start + self.cache.stride_tokens)
            step = self._step(part, start, stride, key, call.real)
            tensors = (x[:, :, stride] for x in (query, key, value))
            out.append(
                part.read(
                    *tensors, step=step, rotate=rotate, scale=call.scale, window=call.window, extras=extras
                )
            )
        return out

    def _read_token(
        self,
        layer: CascadeLayer,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        call: LayerCall,
        extras: AttentionExtras,
    ) -> Tensor:
        """One token for each row of a full cascade: nothing is asked of the device."""
        ring, shape = layer.ring, layer.shape
        if ring is None:
            if shape not in self._clocks:
                self._clocks[shape] = RingClock(shape, layer.seen, key.device)
            limit = shape.capacity_tokens + 1
            turn = self.rotation.turn(call.layer, key, limit, shape.window_tokens)
            ring = layer.enter_ring(self._clocks[shape], turn)
        clock = ring.clock
        if id(clock) not in self._ring_steps:
            real = None if call.real is None else call.real.bool()
            self._ring_steps[id(clock)] = clock.step(real)
        return layer.read_token(
            *(query, key, value),
            step=self._ring_steps[id(clock)],
            ema_factor=self.cache.ema_factor,
            scale=call.scale,
            window=call.window,
            extras=extras,
        )

    def _step(
        self, layer: CascadeLayer, start: int, stride: slice, key: Tensor, real: Tensor | None
    ) -> CascadeStep:
        if self._real is None:  # the same in all layers, and copied off the accelerator once
            everywhere = torch.ones(key.shape[0], key.shape[2], dtype=torch.bool)
            self._real = everywhere if real is None else real.bool().cpu()
        id_ = (layer.shape, start)
        if id_ not in self._steps:
            self._steps[id_] = self.cache.steps.of(
                layer.shape,
                layer.seen,
                layer.counts,
                self._real[:, stride],
                ema_factor=self.cache.ema_factor,
                device=key.device,
            )
        return self._steps[id_]


def _wants_gradients(*given: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in given)


class CascadeReader:
    """Reads what each call is given as its cache (see `Reader`)."""

    def __init__(self, rotation: Rotation, model_name: str) -> None:
        self.rotation, self.model_name = rotation, model_name

    def begin(self, keywords: dict[str, Any]) -> CascadeReading:
        """See `Reader`."""
        cache = cache_among(keywords)
        if not isinstance(cache, CascadingCache):
            raise ValueError(
                f"{CACHE_NAME} is a {type(cache).__name__}; inside reads_cascades(model) every call takes "
                f"{CACHE_NAME}=CascadingCache(...)"
            )
        if len(cache.layers) != len(self.rotation.rotated):
            raise ValueError(
                f"the cascade has {len(cache.layers)} layers and {self.model_name} has {len(self.rotation.rotated)}; make it "
                "from this model's config"
            )
        cache.require_whole()
        return CascadeReading(cache, self.rotation)


@contextmanager
def reads_cascades(model: Any) -> Iterator[None]:
    """Inside, ``model`` takes a `CascadingCache` as its cache, in this thread's forward calls and in ``model.generate``.

    The model's attention function, its rotation and its forward calls are its own again afterwards. ``position_ids`` mean
    nothing inside: the cascade gives every token its position.

    Raises:
        ValueError: the model's positions are not rotary (see `Rotation`); inside, a forward call without a cascade.
    """
    model = unwrapped(model)
    rotation = Rotation.of(model)
    reader = CascadeReader(rotation, type(model).__name__)
    with attends_to_calls(model), rotation.left_to_readers(), brings(model, reader):
        yield
