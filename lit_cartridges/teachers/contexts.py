"""What stands in front of a teacher's prompts, read once for as long as anybody reads it."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.attention.prefix_pool import KeysAndValues, PrefixPool
from lit_cartridges.cascade import cascade_prefill
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.models.position_limit import max_positions


class Context(NamedTuple):
    """Token ids, and how many of them, from the first on, are read through the cascade."""

    ids: tuple[int, ...]
    streamed_tokens: int


class Contexts:
    """Keys and values of contexts, per layer [kv_heads, tokens, head_dim].

    Args:
        cascade: what they are streamed through where it must be; see `LocalTeacher`.

    Attributes:
        pool: where they lie side by side, for readers that need that (`attention.pooled_reading`); None for each by itself.
    """

    def __init__(self, cascade: CascadeOptions | None) -> None:
        self.cascade = self.expected_options = cascade
        self.expected: tuple[int, ...] = ()
        self.pool: PrefixPool[Context] | None = None
        self.forget()

    def expect(self, ids: tuple[int, ...], *, opening_tokens: int) -> None:
        """See `Teacher.expect_prefix`."""
        self.expected = ids
        if self.cascade is not None:
            self.expected_options = self.cascade.keeping(opening_tokens)

    def forget(self) -> None:
        """Give back all keys and values, and keep the pool's place."""
        if self.pool is not None:
            self.pool.clear()
        self._read: dict[Context, KeysAndValues | None] = {}  # None: in the pool
        self._wanted: dict[object, frozenset[Context]] = {}
        # What the cascade kept: of the corpus, and so of use for all chunks; or of the last chunk that was too long.
        self._kept: tuple[tuple[int, ...], KeysAndValues] | None = None

    def keep(self, contexts: Collection[Context], reader: object) -> None:
        """Give back what neither ``reader`` nor another one wants, but the one that was read last: answers follow the
        questions."""
        self._wanted[reader] = frozenset(contexts)
        wanted = frozenset().union(*self._wanted.values(), [next(reversed(self._read), None)])
        for context in [at for at in self._read if at not in wanted]:
            if self._read.pop(context) is None and self.pool is not None:
                self.pool.drop(context)

    def release(self, reader: object) -> None:
        """It wants nothing any more."""
        self._wanted.pop(reader, None)

    def of(self, model: PreTrainedModel, ids: tuple[int, ...], needed_tokens: int) -> Context:
        """How ``ids`` are read in front of so many tokens."""
        limit = max_positions(model.config)
        if self.cascade is None:
            return Context(ids, 0)
        if self.expected and ids[: len(self.expected)] == self.expected:
            return Context(ids, len(self.expected))
        fits = limit is None or len(ids) + needed_tokens <= limit
        return Context(ids, 0 if fits else len(ids))

    def positions(self, context: Context) -> int:
        """Positions that it takes in front of a prompt."""
        return len(context.ids) - context.streamed_tokens + self.kept_positions(context.streamed_tokens)

    def kept_positions(self, num_tokens: int) -> int:
        """Positions of what the cascade keeps of so many tokens."""
        return num_tokens if self.cascade is None else min(num_tokens, self.cascade.total_tokens)

    def read(self, model: PreTrainedModel, context: Context) -> KeysAndValues:
        """Keys and values of the context, its first tokens as the cascade keeps them."""
        if context not in self._read:
            streamed, whole = context.ids[: context.streamed_tokens], context.ids[context.streamed_tokens :]
            kept = self._streamed(model, streamed) if streamed else None
            read = prefill(model, whole, behind=kept) if whole or kept is None else kept
            if self.pool is not None:
                self.pool.put(context, *read)
            self._read[context] = read if self.pool is None else None
        held = self._read[context]
        if held is None:
            assert self.pool is not None
            return self.pool.views(context)
        return held

    def _streamed(self, model: PreTrainedModel, ids: tuple[int, ...]) -> KeysAndValues:
        if self._kept is None or self._kept[0] != ids:
            options = self.expected_options if ids == self.expected else self.cascade
            assert options is not None
            cache = options.new_cache(model.config)
            cascade_prefill(model, cache, torch.tensor([ids], device=model.device))
            self._kept = ids, cache.to_cartridge(model).tensors(dtype=model.dtype, device=model.device)
        return self._kept[1]
