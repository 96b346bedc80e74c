"""The cascading KV cache as a transformers cache (arXiv 2406.17808)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PretrainedConfig, PreTrainedModel

from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cascade.cascade_layer import HEAD_REDUCTIONS, CascadeLayer
from lit_cartridges.cascade.rotation import Rotation
from lit_cartridges.cascade.shape import CascadeShape
from lit_cartridges.cascade.state import load_state, save_state
from lit_cartridges.cascade.steady_steps import SteadySteps
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.models.position_limit import max_positions

PerLayer = int | Sequence[int]


class CascadingCache(Cache):
    """A cache of fixed size for a stream without end; to be used inside ``with reads_cascades(model)``.

    The first ``sink_tokens`` tokens stay. The others pass through ``cascades`` sub-caches, each accepting half as many as
    the one before, and of two that compete for a place the one that got more attention stays. With one sub-cache this is
    StreamingLLM (arXiv 2309.17453), and `method` says so.

    Args:
        config: of the model.
        sink_tokens: tokens that never leave; 0 or more.
        cascades: number of sub-caches; one number, or one per layer.
        window_tokens: tokens per sub-cache; one number, or one per layer. This or ``total_tokens``.
        total_tokens: sinks and all sub-caches together; one number, or one per layer.
        eager_fill: lose nothing until the cache is full (see `CascadeShape`).
        head_reduction: "mean", "max" or "median" of the scores that the query heads of one token set give; the paper's
            published runs use max. The median of an even number is the lower one.
        shared_heads: one token set per layer rather than one per KV head.
        ema_factor: β of the scores' moving average, per query. The constant (1 - β) is left out, since it changes no
            comparison. The paper's code has 0.9999 in its first release and 0.9999999 in a later one.
        stride_tokens: tokens that are read at once and inserted together. Longer inputs are read in strides, inside every
            layer's attention, so that a forward call of any length gives what strided calls give.

    Raises:
        ValueError: a size that cannot be, or positions beyond those that the model knows.
    """

    layers: list[Any]  # of CascadeLayer; transformers declares a union of all its kinds

    def __init__(
        self,
        *,
        config: PretrainedConfig,
        sink_tokens: int = 4,
        cascades: PerLayer = 4,
        window_tokens: PerLayer | None = None,
        total_tokens: PerLayer | None = None,
        eager_fill: bool = True,
        head_reduction: str = "max",
        shared_heads: bool = False,
        ema_factor: float = 0.9999,
        stride_tokens: int = 512,
    ) -> None:
        text = config.get_text_config()
        if head_reduction not in HEAD_REDUCTIONS:
            raise ValueError(f"head_reduction={head_reduction!r}; choose one of {', '.join(HEAD_REDUCTIONS)}")
        if not 0.0 < ema_factor <= 1.0:
            raise ValueError(f"ema_factor={ema_factor}; choose more than 0 and at most 1 (1 forgets nothing)")
        if stride_tokens < 1:
            raise ValueError(f"stride_tokens={stride_tokens}; at least 1 token is read at once")
        counts = _per_layer("cascades", cascades, text.num_hidden_layers)
        windows = _windows(window_tokens, total_tokens, sink_tokens, counts)
        shapes = [
            CascadeShape(sink_tokens=sink_tokens, cascades=c, window_tokens=w, eager_fill=eager_fill)
            for c, w in zip(counts, windows, strict=True)
        ]
        largest = max(shape.capacity_tokens for shape in shapes)
        limit = max_positions(config)
        if limit is not None and largest + stride_tokens > limit:
            raise ValueError(
                f"total_tokens={largest}, stride_tokens={stride_tokens}: a cache and a stride need positions up to "
                f"{largest + stride_tokens - 1}, and the model has max_position_embeddings={limit}; "
                f"their sum must be at most {limit}"
            )
        self.head_reduction, self.shared_heads = head_reduction, shared_heads
        self.ema_factor, self.stride_tokens = ema_factor, stride_tokens
        self.is_being_read = False
        self.broke_off = False  # some layers have read what others have not
        self.steps = SteadySteps()
        super().__init__(
            layers=[
                CascadeLayer(shape=s, head_reduction=head_reduction, shared_heads=shared_heads)
                for s in shapes
            ]
        )

    @property
    def method(self) -> str:
        """What its tables are to call it: "StreamingLLM" with one sub-cache everywhere, else "cascading KV cache"."""
        one = all(layer.shape.cascades == 1 for layer in self.layers)
        return "StreamingLLM" if one else "cascading KV cache"

    def settings(self) -> dict[str, Any]:
        """The keyword arguments, but for ``config``, that make such a cache; plain numbers and words."""
        shapes = [layer.shape for layer in self.layers]
        return {
            "sink_tokens": shapes[0].sink_tokens,
            "cascades": [shape.cascades for shape in shapes],
            "window_tokens": [shape.window_tokens for shape in shapes],
            "eager_fill": shapes[0].eager_fill,
            "head_reduction": self.head_reduction,
            "shared_heads": self.shared_heads,
            "ema_factor": self.ema_factor,
            "stride_tokens": self.stride_tokens,
        }

    def __repr__(self) -> str:
        shape = asdict(self.layers[0].shape)
        return f"{type(self).__name__}({self.method}, {len(self.layers)} layers, the first {shape})"

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by every layer with its new, un-rotated keys and values [R, KV, q, head_dim].

        Raises:
            RuntimeError: outside of `reads_cascades`, where keys come rotated and attention knows no cascade.
            ValueError: another number of rows than before.
        """
        if not self.is_being_read:
            raise RuntimeError(f"a {type(self).__name__} is read inside `with reads_cascades(model):` only")
        layer = self.layers[layer_idx]
        if layer.is_initialized and layer.rows != len(key_states):
            raise ValueError(
                f"the cache holds {layer.rows} rows and the input has {len(key_states)}; repeat it with "
                "batch_repeat_interleave, choose rows with batch_select_indices, or reset() it"
            )
        return layer.update(key_states, value_states)

    def require_whole(self) -> None:
        """Refuse to go on behind a call that broke off, by an interrupt or for want of memory.

        Raises:
            RuntimeError: some layers have read its tokens and others have not.
        """
        if self.broke_off:
            raise RuntimeError(
                f"a call that read this {type(self).__name__} broke off, and some layers have read its tokens and others have "
                "not; reset() it and read the text again, or load what was saved"
            )

    def reset(self) -> None:
        """Hold nothing, as when it was new."""
        super().reset()
        self.broke_off = False

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values, scores and token indices as held now."""
        return sum(layer.nbytes for layer in self.layers)

    @torch.no_grad()
    def to_cartridge(
        self, model: PreTrainedModel, *, row: int | None = None, num_frozen_tokens: int = 1
    ) -> Cartridge:
        """What is held of one row, as a cartridge: keys rotated by ``model`` at positions 0..n-1.

        Args:
            row: which row; may be left out when there is only one.

        Raises:
            ValueError: nothing was read, several rows and none chosen, or layers of unequal length.
        """
        self.require_whole()
        if not all(layer.is_initialized for layer in self.layers):
            raise ValueError("to_cartridge needs a cascade that has read something; this one is empty")
        rows = len(self.layers[0].seen)
        if row is None and rows > 1:
            raise ValueError(
                f"the cache holds {rows} rows and a cartridge is one; choose row=0 to {rows - 1}"
            )
        row = row or 0
        stored = [int(layer.stored()[row]) for layer in self.layers]
        if len(set(stored)) > 1:
            raise ValueError(
                f"the layers hold {sorted(set(stored))} tokens and a cartridge has one length; use one size for all layers"
            )
        rotation, n, keys, values = Rotation.of(model), stored[0], [], []
        for index, layer in enumerate(self.layers):
            positions = torch.arange(n, device=layer.keys.device)[None]
            keys.append(rotation.rotate(index, layer.keys[row : row + 1, :, :n], positions, n)[0])
            values.append(layer.values[row, :, :n])
        provenance = Provenance(
            base_model=model.config._name_or_path,
            fingerprint=Fingerprint.of_config(model.config),
            base=base_of(model),
            init="cascade",
            notes={"cascade": self.settings(), "tokens_read": int(self.layers[0].seen[row])},
        )
        return Cartridge(keys, values, num_frozen_tokens=num_frozen_tokens, provenance=provenance)

    def save(self, path: str | Path) -> Path:
        """Write what is held, and the settings, to a safetensors file."""
        self.require_whole()
        return save_state(self, Path(path))

    @classmethod
    def load(
        cls, path: str | Path, *, config: PretrainedConfig, device: torch.device | str = "cpu"
    ) -> CascadingCache:
        """Read what `save` wrote; the stream goes on as if it had not stopped."""
        return load_state(Path(path), build=partial(cls, config=config), device=device)


def _per_layer(name: str, value: PerLayer, layers: int) -> list[int]:
    values = [value] * layers if isinstance(value, int) else list(value)
    if len(values) != layers:
        raise ValueError(
            f"{name} has {len(values)} entries for {layers} layers; give one number, or one per layer"
        )
    return values


def _windows(window: PerLayer | None, total: PerLayer | None, sinks: int, cascades: list[int]) -> list[int]:
    """Tokens per sub-cache of each layer."""
    if (window is None) == (total is None):
        raise ValueError(f"window_tokens={window} and total_tokens={total}: give one of the two")
    if window is not None:
        return _per_layer("window_tokens", window, len(cascades))
    assert total is not None
    totals = _per_layer("total_tokens", total, len(cascades))
    for size, count in zip(totals, cascades, strict=True):
        if count < 1 or size <= sinks or (size - sinks) % count:
            raise ValueError(
                f"total_tokens={size} does not leave {count} equal sub-caches beside sink_tokens={sinks}; choose a multiple of "
                f"{count} plus {sinks}"
            )
    return [(size - sinks) // count for size, count in zip(totals, cascades, strict=True)]
