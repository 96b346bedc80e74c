"""Cascades that differ from a given one in one setting, and cascades whose scores are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.cascade import CascadingCache
from lit_cartridges.cascade.cascade_layer import CascadeLayer
from lit_cartridges.cascade.options import CascadeOptions

Worth = Callable[[Tensor], Tensor]
"""From token ids [R, q] to what they are worth, 0 to 1; this then decides, and attention only between equals."""


@dataclass(frozen=True, kw_only=True)
class Variant(CascadeOptions):
    """Options that may differ between layers, or replace the scores.

    Args:
        setting, value: what differs, for tables.
        per_layer: arguments of `CascadingCache` in the place of these options.
        worth: what new tokens are worth, in the place of attention.
    """

    setting: str
    value: str = ""
    per_layer: dict[str, Any] = field(default_factory=dict)
    worth: Worth | None = None

    def new_cache(self, config: PretrainedConfig) -> CascadingCache:
        """See `CascadeOptions.new_cache`."""
        options = {name: getattr(self, name) for name in asdict(CascadeOptions())}
        cache = CascadingCache(config=config, **(options | self.per_layer))
        if self.worth is not None:
            cache.layers = [_Appraised(layer, self, self.worth) for layer in cache.layers]
        return cache


class _Appraised(CascadeLayer):
    """A layer whose tokens enter with a score so high that attention does not matter beside it."""

    def __init__(self, layer: CascadeLayer, options: CascadeOptions, worth: Worth) -> None:
        super().__init__(
            shape=layer.shape, head_reduction=options.head_reduction, shared_heads=options.shared_heads
        )
        self._worth = worth

    def _reduced(self, sums: Tensor, kv_heads: int) -> Tensor:
        scores = super()._reduced(sums, kv_heads)
        worth = self._worth(_being_read[-1].cpu())[:, None].to(scores.device)  # (R, 1, q)
        scores[:, :, -worth.shape[2] :] += 1e6 * worth
        return scores


_being_read: list[Tensor] = []


@contextmanager
def notes_ids(model: PreTrainedModel) -> Iterator[None]:
    """Inside, made-up scores know which tokens a forward call reads; calls are no longer than a stride."""

    def note(_: Any, args: tuple[Tensor, ...]) -> None:
        _being_read[:] = args

    hook = model.get_input_embeddings().register_forward_pre_hook(note)
    try:
        yield
    finally:
        hook.remove()
        _being_read.clear()


def variants(base: CascadeOptions, *, values: Sequence[int], names: Sequence[int]) -> list[Variant]:
    """``base`` first, then one setting changed at a time; the sum of all layers' sizes stays what it is, but for the
    control, which has the newest of four sub-caches alone.

    Args:
        values, names: ids of the tokens that the made-up scores prefer.
    """

    def of(setting: str, value: object, **changes: Any) -> Variant:
        return Variant(setting=setting, value=str(value), **(asdict(base) | changes))

    def layers(label: str, **options: Any) -> Variant:
        return replace(of("layers", label), per_layer=options)

    def share(eighths: int) -> int:
        return base.sink_tokens + (base.total_tokens - base.sink_tokens) * eighths // 8

    value_ids, name_ids = torch.tensor(list(values)), torch.tensor(list(names))
    generator = torch.Generator().manual_seed(0)
    few, half = share(1), share(4)
    rest = [2 * base.total_tokens - part for part in (few, half)]
    return [
        of("default", ""),
        of("cascades", "1 (StreamingLLM)", cascades=1),
        *(of("cascades", n, cascades=n) for n in (2, 8, 16)),
        of("control", f"{share(2)}, cascades 1", cascades=1, total_tokens=share(2)),
        of("scores", "at random", worth=lambda ids: torch.rand(ids.shape, generator=generator)),
        of("scores", "value words first", worth=lambda ids: torch.isin(ids, value_ids).float()),
        of(
            "scores",
            "values, then names",
            worth=lambda ids: torch.isin(ids, value_ids).float() + 0.5 * torch.isin(ids, name_ids).float(),
        ),
        *(of("sink_tokens", n, sink_tokens=n) for n in (0, 16)),
        *(of("ema_factor", x, ema_factor=x) for x in (0.9, 0.99, 0.9999999)),
        of("eager_fill", False, eager_fill=False),
        *(
            of("shared_heads", f"True, {how}", shared_heads=True, head_reduction=how)
            for how in ("max", "mean", "median")
        ),
        of("stride_tokens", base.stride_tokens // 4, stride_tokens=base.stride_tokens // 4),
        layers("cascades 1, 4", cascades=[1, 4]),
        layers("cascades 4, 1", cascades=[4, 1]),
        layers(f"tokens {half}, {rest[1]}", total_tokens=[half, rest[1]]),
        layers(f"tokens {rest[1]}, {half}", total_tokens=[rest[1], half]),
        layers(f"tokens {few}, {rest[0]}", total_tokens=[few, rest[0]]),
        layers(f"tokens {few}, {rest[0]}, cascades 1", total_tokens=[few, rest[0]], cascades=1),
    ]
