"""Streaming perplexity, in the manner of PG19 in arXiv 2406.17808: a fresh cache per document, every token scored once.

Each system gives a document's log-probabilities, token by token; all have the same number of positions to hold in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.corpora.open_corpus import Corpus, open_corpus
from lit_cartridges.evals.systems import Sizes, StreamedKind, chosen
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.text import text_ids


@dataclass(frozen=True, kw_only=True)
class StreamingResult:
    """One system's figures.

    Args:
        held_tokens: positions that it may hold at once, beside those of the stride that is being read.
        num_tokens: tokens scored: all but the first of each document.
        nats_per_token: their mean negative log-likelihood; `perplexity` is its exponential.
        seconds: wall-clock time of reading and scoring.
        by_document: nats per token of each document.
        by_position: (first, last, nats per token) over the tokens at these places of their documents; doubling spans.
    """

    system: str
    held_tokens: int
    num_documents: int
    num_tokens: int
    nats_per_token: float
    seconds: float
    by_document: tuple[float, ...] = ()
    by_position: tuple[tuple[int, int, float], ...] = field(default=(), repr=False)

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(self.nats_per_token)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "perplexity": self.perplexity}


def streamed_documents(
    corpora: Sequence[Path | Corpus], tokenizer: Any, *, num_tokens: int | None = None, plain: bool = False
) -> list[tuple[str, list[int]]]:
    """Name and token ids of each document behind what opens it.

    Args:
        num_tokens: cut documents after so many.
        plain: behind the tokenizer's first token alone; if not, as the system message of a chat, where there is a template.

    Raises:
        EvalError: none has a token to score.
    """
    if plain:
        opening = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    else:
        opening = ChatRenderer(tokenizer).context_ids([])
    found = (document for corpus in corpora for document in open_corpus(corpus).documents())
    documents = [(one.name, (opening + text_ids(tokenizer, one.text))[:num_tokens]) for one in found]
    if not any(len(ids) > 1 for _, ids in documents):
        raise EvalError(
            f"corpora={[str(c) for c in corpora]}: there is no text to score; give some documents"
        )
    return [(name, ids) for name, ids in documents if len(ids) > 1]


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
    [kind] = chosen([system], StreamedKind)
    sizes = Sizes(cascade=options, max_context_tokens=max_context_tokens)
    held_tokens, longest = kind.held_tokens(model.config, documents, sizes), max(map(len, documents))
    sums: dict[int, float] = {}
    counts: dict[int, int] = {}
    by_document: list[float] = []
    start = time.perf_counter()
    for ids in documents:
        logprobs = (
            kind.logprobs(model, torch.tensor([list(ids)], device=model.device), sizes)[0].double().cpu()
        )
        by_document.append(-logprobs.mean().item())
        for octave in range(len(logprobs).bit_length()):
            part = logprobs[2**octave - 1 : 2 ** (octave + 1) - 1]
            sums[octave] = sums.get(octave, 0.0) - part.sum().item()
            counts[octave] = counts.get(octave, 0) + len(part)
    num_tokens = sum(counts.values())
    return StreamingResult(
        system=system,
        held_tokens=held_tokens,
        num_documents=len(documents),
        num_tokens=num_tokens,
        nats_per_token=sum(sums.values()) / num_tokens,
        seconds=time.perf_counter() - start,
        by_document=tuple(by_document),
        by_position=tuple(
            (2**octave, min(2 ** (octave + 1), longest) - 1, sums[octave] / counts[octave])
            for octave in sorted(counts)
            if counts[octave]
        ),
    )
