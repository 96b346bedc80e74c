"""The attention function that transformers calls while a model reads a cascade.

It knows nothing: the keyword argument ``cascade``, which transformers hands down to every layer, does the reading.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

from lit_cartridges.attention import refuse_extras

NAME = "lit_cartridges_cascade"


class Reader(Protocol):
    """Attention of one layer to what it wants; shapes as in `cascade_attention`, ``real`` [batch, tokens] or None."""

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
        """Output [batch, heads, tokens, head_dim]."""


def cascade_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cascade: Reader | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Hand one layer's attention to ``cascade`` (see transformers' AttentionInterface).

    Args:
        query: [batch, heads, tokens, head_dim], not rotated.
        key, value: [batch, kv_heads, tokens, head_dim] of the new tokens alone, not rotated.
        attention_mask: [batch, tokens], True where a token is real, or None.
        softcap, s_aux: the soft-cap of the scores, and the sinks [heads].

    Returns:
        Output [batch, tokens, heads, head_dim], contiguous, and None (no attention weights).
    """
    refuse_extras(module, kwargs)
    if attention_mask is not None and attention_mask.shape != (query.shape[0], query.shape[2]):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)} for {query.shape[2]} new tokens; a model that reads "
            "a cascade takes [batch, tokens] of the new tokens, or of all tokens so far"
        )
    if cascade is None:
        raise RuntimeError("the attention of cascades was called without one; use reads_cascades(model)")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    out = cascade.read(layer, query, key, value, attention_mask, scale, sliding_window, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, cascade_attention)
# A [batch, tokens] padding mask is all that is needed; causality and windows follow from the re-indexed positions.
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, flash_attention_mask)
