"""Streaming perplexity, in the manner of PG19 in arXiv 2406.17808: a fresh cache per document, every token scored once.

Each system gives a document's log-probabilities, token by token; all have the same number of positions to hold in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import streamed_logprobs
from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.evals.cascade_system import CASCADE, STREAMING_LLM
from lit_cartridges.evals.system import ContextTooLong, context_limit

TRUNCATED, DENSE = "truncated", "dense"
STREAMING_SYSTEMS = (CASCADE, STREAMING_LLM, TRUNCATED, DENSE)


@dataclass(frozen=True, kw_only=True)
class StreamingResult:
    """One system's figures.

    Args:
        held_tokens: positions that it may hold at once, beside those of the stride that is being read.
        num_tokens: tokens scored: all but the first of each document.
        nats_per_token: their mean negative log-likelihood; `perplexity` is its exponential.
        seconds: wall-clock time of reading and scoring.
        by_position: (first, last, nats per token) over the tokens at these places of their documents; doubling spans.
    """

    system: str
    held_tokens: int
    num_documents: int
    num_tokens: int
    nats_per_token: float
    seconds: float
    by_position: tuple[tuple[int, int, float], ...] = field(default=(), repr=False)

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(self.nats_per_token)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "perplexity": self.perplexity}


def streaming_perplexity(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    system: str,
    options: CascadeOptions,
    *,
    max_context_tokens: int | None = None,
) -> StreamingResult:
    """Score every document, each with a fresh cache.

    Args:
        documents: token ids, at least two each.
        system: "cascade"; "streaming_llm", one sub-cache of the same total size; "truncated": dense attention to the last
            ``total_tokens`` tokens, which are read anew for every stride; "dense": the whole document at once.
        options: ``total_tokens`` and ``stride_tokens`` hold for the first three.
        max_context_tokens: positions that dense may use, if fewer than the model's ``max_position_embeddings``.

    Raises:
        ContextTooLong: a document is too long for dense.
    """
    longest = max(len(ids) for ids in documents)
    limit = context_limit(model.config, max_context_tokens)
    if system == DENSE and limit is not None and longest > limit:
        raise ContextTooLong(
            f"{system}: the longest document has {longest} tokens, and the context holds {limit}; cut the documents"
        )
    score = _scorer(system, model.config, options)
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    start = time.perf_counter()
    for ids in documents:
        logprobs = score(model, torch.tensor([list(ids)], device=model.device))[0].double().cpu()
        for octave in range(len(logprobs).bit_length()):
            part = logprobs[2**octave - 1 : 2 ** (octave + 1) - 1]
            sums[octave] = sums.get(octave, 0.0) - part.sum().item()
            counts[octave] = counts.get(octave, 0) + len(part)
    num_tokens = sum(counts.values())
    return StreamingResult(
        system=system,
        held_tokens=longest if system == DENSE else options.total_tokens,
        num_documents=len(documents),
        num_tokens=num_tokens,
        nats_per_token=sum(sums.values()) / num_tokens,
        seconds=time.perf_counter() - start,
        by_position=tuple(
            (2**octave, min(2 ** (octave + 1), longest) - 1, sums[octave] / counts[octave])
            for octave in sorted(counts)
            if counts[octave]
        ),
    )


def _scorer(
    system: str, config: PretrainedConfig, options: CascadeOptions
) -> Callable[[PreTrainedModel, Tensor], Tensor]:
    """From a model and ids [1, tokens] to log-probabilities [1, tokens - 1]."""
    if system in (CASCADE, STREAMING_LLM):
        sized = options.streaming_llm() if system == STREAMING_LLM else options
        return lambda model, ids: streamed_logprobs(model, sized.new_cache(config), ids)
    if system == TRUNCATED:
        return lambda model, ids: truncated_logprobs(
            model, ids, total_tokens=options.total_tokens, stride_tokens=options.stride_tokens
        )
    return lambda model, ids: dense_logprobs(model, ids, stride_tokens=options.stride_tokens)


@torch.no_grad()
def truncated_logprobs(model: Any, input_ids: Tensor, *, total_tokens: int, stride_tokens: int) -> Tensor:
    """Log-probabilities fp32 [rows, tokens - 1], each given at least the ``total_tokens`` tokens before it, or all there are.

    A stride is scored by one plain forward call over the ``total_tokens`` tokens before it and itself, from position 0.
    """
    columns = []
    for start in range(0, input_ids.shape[1] - 1, stride_tokens):
        first = max(0, start - total_tokens)
        part = input_ids[:, first : start + stride_tokens]
        kept = part.shape[1] - (start - first)
        logits = model(part, use_cache=False, logits_to_keep=kept).logits
        columns.append(_picked(logits, input_ids[:, start + 1 : start + kept + 1]))
    return torch.cat(columns, dim=1)


@torch.no_grad()
def dense_logprobs(model: Any, input_ids: Tensor, *, stride_tokens: int) -> Tensor:
    """Log-probabilities fp32 [rows, tokens - 1] by the unmodified model; a stride's logits exist at a time."""
    columns, cache = [], DynamicCache(config=model.config)
    for start in range(0, input_ids.shape[1] - 1, stride_tokens):
        stop = start + stride_tokens
        logits = model(input_ids[:, start:stop], **cache_argument(cache), use_cache=True).logits
        columns.append(_picked(logits, input_ids[:, start + 1 : stop + 1]))
    return torch.cat(columns, dim=1)


def _picked(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets' log-probabilities; the last logits have no target at the end of a text."""
    known = logits[:, : targets.shape[1]].float().log_softmax(-1)
    return known.gather(2, targets[..., None]).squeeze(2)
