"""How a frozen Hugging Face model reads a cartridge.

    with reads_prefixes(model):
        model(input_ids, position_ids=..., reading=Reading(keys, values, ...))

`Reading` holds, per layer, the keys and values of a *prefix*: a cartridge, or the prefill of a chunk. All rows of the
batch share it; `MergedAttention` merges the attention to it with the causal attention among the row's own tokens, so it
is never copied. Rows may be a padded batch, or one row of packed sequences (`lengths`). `model_calls` brings a
reading to the layers of its call, and of no other.

**Sliding-window layers** treat the prefix as what it stands for: tokens at positions 0..P-1. A token at position t sees
the prefix tokens j with t - j < window and no others, exactly as if they had been prefilled. Training, generation and
evaluation all go through this function, so they agree. A cartridge longer than the window is therefore partly unseen
by such layers; their part of it still trains for the tokens that see it.

Which models can read is said by `readable` from their config, and tried out by `self_check` before the first reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lit_cartridges.attention.model_calls import NAME, attends_to_calls, brings
from lit_cartridges.attention.reading import Reading
from lit_cartridges.attention.self_check import require_exact_reading
from lit_cartridges.models.readable import require_readable, unwrapped

__all__ = ["NAME", "Reading", "reading_prefix", "reads_prefixes", "require_readable"]


@contextmanager
def reads_prefixes(model: Any) -> Iterator[None]:
    """Let ``model``, or the model inside of a wrapper, take the keyword ``reading`` in its forward calls.

    Inside, in every thread, a call without a reading raises RuntimeError; afterwards the model's own attention is back.

    Raises:
        UnreadableModelError: the model cannot read a prefix, or does not read it exactly (see `self_check`).
    """
    bare = unwrapped(model)
    require_exact_reading(bare)
    with attends_to_calls(bare):
        yield


@contextmanager
def reading_prefix(
    model: Any,
    keys: Sequence[Tensor] | None,
    values: Sequence[Tensor] | None,
    biases: Sequence[Tensor] | None = None,
) -> Iterator[None]:
    """Every forward call of this thread inside the ``with`` reads this prefix, for callers such as ``model.generate``.

    Args:
        keys, values: per layer [kv_heads, prefix_tokens, head_dim]; None for no prefix.
        biases: per layer [kv_heads, prefix_tokens], if the prefix has them.
    """
    reading = Reading(keys=keys, values=values, biases=biases)
    with reads_prefixes(model), brings(unwrapped(model), reading):
        yield
