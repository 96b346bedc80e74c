"""The cascading KV cache (arXiv 2406.17808): the corpus is streamed, and so is what follows it."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import CascadingCache, cascade_prefill, reads_cascades, streamed_logprobs
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.evals.systems.kind import AskedKind, Sizes, StreamedKind, SystemInput
from lit_cartridges.evals.systems.system import System, seconds_since
from lit_cartridges.generation import left_padded

CASCADE = "cascade"


@dataclass(frozen=True, kw_only=True, eq=False)
class CascadeSystem(System):
    """What a cascade kept of a corpus, and goes on losing: every question starts from a copy of it.

    Questions and answers enter the cache as any other text does, so its size stays what it is. A reply is decoded a token
    at a time; a reference answer, whose log-likelihood is measured, is read a stride at a time behind its question.
    Where a batch's longest question exceeds a stride, the strides of the others begin in their padding.

    Args:
        cache: of one row that has read the corpus. It is never changed.
    """

    cache: CascadingCache = field(repr=False)

    @property
    def num_kv_tokens(self) -> int:
        """Tokens held, in the layer that holds the most."""
        return max(int(layer.stored().max()) for layer in self.cache.layers if layer.is_initialized)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys, values, scores and token indices."""
        return self.cache.nbytes

    def require_room(self, config: PretrainedConfig, needed_tokens: int) -> None:
        """A stream has room for any number of tokens."""

    def generate(self, model: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """See `System.generate`."""
        cache = self._copies(len(input_ids))
        seen = attention_mask.new_ones(len(input_ids), cache.get_seq_length())
        with reads_cascades(model):
            return model.generate(
                input_ids,
                attention_mask=torch.cat([seen, attention_mask], dim=1),
                **cache_argument(cache),
                **options,
            )

    def hidden_states(self, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
        """See `System.hidden_states`."""
        ids, mask = left_padded(sequences, 0, model.device)
        base: Any = model.base_model
        with reads_cascades(model):
            out = base(
                ids, attention_mask=mask, **cache_argument(self._copies(len(sequences))), use_cache=True
            )
        return out.last_hidden_state[mask.bool()]

    def _copies(self, rows: int) -> CascadingCache:
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


class Cascade(AskedKind, StreamedKind):
    """The whole corpus, or a document of any length, read through a cache of fixed size."""

    name = CASCADE

    def sized(self, cascade: CascadeOptions) -> CascadeOptions:
        """The cache's size, from the given one."""
        return cascade

    def check(self, config: PretrainedConfig, sizes: Sizes) -> None:
        """See `SystemKind.check`."""
        self.sized(sizes.cascade).new_cache(config)

    def read(self, given: SystemInput) -> CascadeSystem:
        """See `AskedKind.read`.

        Raises:
            ValueError: sizes that do not suit the model, or a model whose positions are not rotary.
        """
        model = given.model
        cache = self.sized(given.sizes.cascade).new_cache(model.config)
        ids = torch.tensor([given.renderer.context_ids(given.corpus_ids)], device=model.device)
        start = time.perf_counter()
        cascade_prefill(model, cache, ids)
        return CascadeSystem(name=self.name, cache=cache, prefill_s=seconds_since(start, model))

    def logprobs(self, model: PreTrainedModel, input_ids: Tensor, sizes: Sizes) -> Tensor:
        """See `StreamedKind.logprobs`."""
        return streamed_logprobs(model, self.sized(sizes.cascade).new_cache(model.config), input_ids)
