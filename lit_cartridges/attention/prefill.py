"""The keys and values of some tokens: the frozen model reads them once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.prefixed_cache import prefixed_cache
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.models.readable import unwrapped


@torch.no_grad()
def prefill(
    model: Any,
    token_ids: Sequence[int] | Tensor,
    *,
    behind: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    window_tokens: int = 4096,
) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values per layer [kv_heads, tokens, head_dim] of ``token_ids`` at positions 0, 1, …

    With ``behind``, keys and values of what was read before, ``token_ids`` take the positions after it, and both are returned
    as one.

    Every position is kept, those that a sliding-window layer will no longer see too, so that a cartridge made of the
    result is complete. The tokens are read ``window_tokens`` at a time, which bounds memory and changes nothing: beside the
    keys and values, memory depends on the window (see `cached_rows`), and time is that of one pass.

    Raises:
        ValueError: no tokens, or more than the model has positions.
    """
    model = unwrapped(model)
    ids = torch.as_tensor(token_ids, dtype=torch.long, device=model.device).reshape(1, -1)
    limit = max_positions(model.config)
    if ids.shape[1] == 0:
        raise ValueError("a prefill needs at least one token; got none")
    before = behind[0][0].shape[-2] if behind else 0
    if limit is not None and before + ids.shape[1] > limit:
        raise ValueError(
            f"a prefill of {before + ids.shape[1]} tokens does not fit max_position_embeddings={limit}"
        )
    old_keys, old_values = behind or (None, None)
    cache = prefixed_cache(model.config.get_text_config().num_hidden_layers, before)
    # Not in a caller's autocast: the model reads in the dtype that it was loaded in.
    with reads_prefixes(model), torch.autocast(ids.device.type, enabled=False):
        for start in range(0, ids.shape[1], window_tokens):
            part = ids[:, start : start + window_tokens]
            positions = torch.arange(before + start, before + start + part.shape[1], device=ids.device)[None]
            model.base_model(
                part,
                position_ids=positions,
                **cache_argument(cache),
                use_cache=True,
                reading=Reading(keys=old_keys, values=old_values, position_ids=positions),
            )
    keys, values = ([getattr(layer, name)[0] for layer in cache.layers] for name in ("keys", "values"))
    if behind is None:
        return keys, values
    sides = zip(behind, (keys, values), strict=True)
    old_and_new = [[torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)] for old, new in sides]
    return old_and_new[0], old_and_new[1]
