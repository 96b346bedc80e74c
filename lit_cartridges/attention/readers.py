"""What a model's layers ask, and who answers (see `model_calls`).

Shapes: B rows · T new tokens · M keys of the rows themselves · H query heads · K key-value heads · D head dim
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """What a layer hands over beside its queries, keys and values.

    Args:
        layer: its index.
        real: [B, M], True where a key is no padding; None where none is.
        scale: factor of the scores.
        window: width of a sliding-window layer in tokens, or None.
        extras: further keywords of the attention function that are set, by name.
    """

    layer: int
    real: Tensor | None
    scale: float
    window: int | None
    extras: Mapping[str, Any] = field(default_factory=dict)


class CallReader(Protocol):
    """Answers the layers of one forward call."""

    unrotated: bool
    """Whether the model shall leave its queries and keys without rotation in this call."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall) -> Tensor:
        """Output [B, H, T, D] of ``query`` [B, H, T, D] over what is read and ``key``, ``value`` [B, K, M, D]."""

    def end(self) -> None:
        """The forward call has ended, by an error or without one."""


class Reader(Protocol):
    """What forward calls read beside their own tokens."""

    def begin(self, keywords: dict[str, Any]) -> CallReader:
        """Called once per forward call of the text model, with its keywords, which it may fill in."""
