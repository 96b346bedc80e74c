"""Corpora and self-study conversations of random tokens, and how far a cartridge's attention is from the corpus's."""

from __future__ import annotations

from functools import partial

import torch

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init import InitContext
from tests.tiny_models import VOCAB

OPENING = 4


def drawn_tokens(count: int, seed: int) -> list[int]:
    return torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def drawn_conversations(count: int, *, seed: int = 100, length: int = 24) -> list[list[int]]:
    return [drawn_tokens(length + i % 5, seed + i) for i in range(count)]


def drawn_context(model, num_tokens: int, corpus_tokens: int = 60, seed: int = 0, **options) -> InitContext:
    corpus = drawn_tokens(corpus_tokens, 1)
    return InitContext(
        model=model,
        context_ids=[*drawn_tokens(OPENING, 2), *corpus],
        corpus_ids=corpus,
        num_tokens=num_tokens,
        seed=seed,
        self_study=options.pop("self_study", partial(drawn_conversations)),
        **options,
    )


def logits_behind(model, start, ids) -> torch.Tensor:
    """Logits of ``ids`` read behind keys, values and perhaps biases."""
    positions = torch.arange(len(ids))[None] + start.keys[0].shape[1]
    reading = Reading(keys=start.keys, values=start.values, biases=start.biases, position_ids=positions)
    with reads_prefixes(model), torch.no_grad():
        return model(
            torch.tensor(ids)[None], position_ids=positions, use_cache=False, reading=reading
        ).logits[0]


def logits_of_the_text(model, prefix, ids) -> torch.Tensor:
    """The reference: one plain forward call over all of it."""
    with torch.no_grad():
        return model(torch.tensor([[*prefix, *ids]]), use_cache=False).logits[0, len(prefix) :]


def prefilled(model, ids):
    from lit_cartridges.init.init_strategy import InitialTensors

    return InitialTensors(*prefill(model, ids))
