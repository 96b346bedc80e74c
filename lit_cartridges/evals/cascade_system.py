"""The cascading KV cache and StreamingLLM as systems under test: the corpus is streamed, and so is what follows it."""

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
from lit_cartridges.cascade import CascadingCache, cascade_prefill, reads_cascades
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.system import System, TokenIds
from lit_cartridges.generation import left_padded

CASCADE, STREAMING_LLM = "cascade", "streaming_llm"
STREAMS = (CASCADE, STREAMING_LLM)


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


def stream_options(name: str, cascade: CascadeOptions) -> CascadeOptions:
    """The cache of "cascade", or of "streaming_llm": one sub-cache of the same total size."""
    return cascade.streaming_llm() if name == STREAMING_LLM else cascade


def streamed(
    name: str,
    model: PreTrainedModel,
    renderer: ChatRenderer,
    corpus_ids: TokenIds,
    options: CascadeOptions,
) -> CascadeSystem:
    """The whole corpus, of any length, read through a cache of fixed size.

    Args:
        name, options: see `stream_options`.

    Raises:
        ValueError: options that do not suit the model, or a model whose positions are not rotary.
    """
    cache = stream_options(name, options).new_cache(model.config)
    ids = torch.tensor([renderer.context_ids(corpus_ids)], device=model.device)
    start = time.perf_counter()
    cascade_prefill(model, cache, ids)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return CascadeSystem(name=name, cache=cache, prefill_s=time.perf_counter() - start)
