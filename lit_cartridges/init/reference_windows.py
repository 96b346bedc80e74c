"""What reference queries see of a corpus: its keys and values window by window, and the queries of texts read after it.

Strategies that keep or fit positions by the attention they receive need both. A window is the chat template's opening
(the attention sink) and a piece of the corpus behind it, at positions 0, 1, …; a reference text is read behind that.

Shapes: K key-value heads · L tokens of a window · G query heads per key-value head · n = G · reference tokens · D head dim
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init.init_strategy import InitContext, InitStrategy


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceWindow:
    """One window, read.

    Attributes:
        start: where its piece begins in ``context_ids``.
        opening_tokens: tokens of the opening, with which the window begins.
        keys, values: per layer [K, L, D], in the model's dtype.
        queries: per layer [K, n, D] in fp32, rotated, and multiplied by the factor of the layer's scores.
        query_positions: [n], counted as the window's, so the first reference token stands at L.
        sliding_windows: per layer the tokens that a query sees, itself included, or None for all.
        softcaps: per layer the soft-cap of its scores, or None.
    """

    start: int
    opening_tokens: int
    keys: list[Tensor]
    values: list[Tensor]
    queries: list[Tensor]
    query_positions: Tensor
    sliding_windows: list[int | None]
    softcaps: list[float | None]

    @property
    def num_tokens(self) -> int:
        """Tokens of the window, the opening included."""
        return self.keys[0].shape[1]

    def hidden(self, layer: int, key_positions: Tensor, shift: int = 0) -> Tensor | None:
        """[n, keys], True where the layer's sliding window hides a key from a query moved by ``shift``; None: nowhere."""
        window = self.sliding_windows[layer]
        if window is None:
            return None
        return (self.query_positions[:, None] + shift - key_positions) >= window

    def attention(self, layer: int, head: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Probabilities [n, L] of the queries over the window alone, and [n, L] what each key would weigh if seen.

        The two differ behind a sliding window's edge: there the probabilities are 0, and a key weighs what it would
        against all that is seen, at most as much as that. A query that sees nothing has probabilities of 0. A layer's
        learned sinks take no part: they weigh against all keys alike.
        """
        scores, softcap = (
            self.queries[layer][head].to(dtype) @ self.keys[layer][head].to(dtype).T,
            self.softcaps[layer],
        )
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        hidden = self.hidden(layer, torch.arange(self.num_tokens, device=scores.device))
        if hidden is None:
            probabilities = scores.softmax(-1)
            return probabilities, probabilities
        lse = scores.masked_fill(hidden, -torch.inf).logsumexp(-1, keepdim=True)
        weights = (scores - lse.masked_fill(lse == -torch.inf, 0)).clamp(max=0).exp()
        return weights.masked_fill(hidden, 0), weights


def opening_tokens(context: InitContext) -> int:
    """Tokens in front of the corpus, and the corpus's first where there are none: the attention sink."""
    return max(1, len(context.opening_ids))


def require_positions(context: InitContext, strategy: InitStrategy) -> None:
    """Raise ValueError when the corpus has too few positions to keep, or the cartridge no place behind the opening."""
    opening, held = opening_tokens(context), len(context.context_ids)
    if not opening < context.num_tokens <= held:
        raise ValueError(
            f"init={strategy.describe()} keeps num_tokens={context.num_tokens} of the {held} positions of the corpus and "
            f"the chat template's opening, which is kept whole; choose {opening + 1} to {held}"
        )


def read_windows(
    context: InitContext,
    texts: Sequence[Sequence[int]] | None,
    *,
    window_tokens: int,
    max_query_tokens: int,
) -> Iterator[ReferenceWindow]:
    """The corpus in windows of about equal length, one in memory at a time.

    Args:
        texts: token ids to be read behind every window; None for the window's own piece once more (as KVzip does,
            arXiv 2505.23416).
        window_tokens: the most tokens of a window; fewer where the model's context, with a text behind it, holds fewer.
        max_query_tokens: of the texts' tokens, at most so many become queries, drawn by the context's seed.

    Raises:
        ValueError: the texts, or the opening alone, leave no place for the corpus.
    """
    opening = opening_tokens(context)
    size, limit = window_tokens - opening, context.max_positions
    if limit is not None:
        room = limit - opening
        size = min(size, room // 2 if texts is None else room - max(map(len, texts), default=0))
    if size < 1:
        raise ValueError(
            f"an opening of {opening} tokens and a reference text behind the corpus leave no place for the corpus: "
            f"window_tokens={window_tokens}, max_position_embeddings={limit}; choose more, or shorter conversations"
        )
    length = len(context.context_ids) - opening
    count = max(1, -(-length // size))
    bounds = [opening + length * i // count for i in range(count + 1)]
    for start, stop in context.bar(
        list(zip(bounds, bounds[1:], strict=False)), "reading the corpus", total=count
    ):
        piece = [int(i) for i in context.context_ids[start:stop]]
        read = texts if texts is not None else [piece or context.context_ids[:opening]]
        yield _read(context, start, opening, piece, read, max_query_tokens)


@torch.no_grad()
def _read(
    context: InitContext,
    start: int,
    opening: int,
    piece: Sequence[int],
    texts: Sequence[Sequence[int]],
    max_query_tokens: int,
) -> ReferenceWindow:
    model = context.model
    keys, values = prefill(model, [*context.context_ids[:opening], *piece])
    kv_heads, num_tokens, _ = keys[0].shape
    kept = _drawn([len(text) for text in texts], max_query_tokens, context.seed)
    queries: list[list[Tensor]] = [[] for _ in keys]
    windows: list[int | None] = [None] * len(keys)
    softcaps: list[float | None] = [None] * len(keys)
    positions = []
    with reads_prefixes(model):
        for text, rows in zip(texts, kept, strict=True):
            if not len(rows):
                continue
            groups = 1
            rows = rows.to(model.device)

            def observe(
                layer: int,
                query: Tensor,
                scale: float,
                window: int | None,
                softcap: float | None,
                rows: Tensor = rows,
            ) -> None:
                nonlocal groups
                groups = query.shape[1] // kv_heads
                own = query[0, :, rows].float() * scale
                queries[layer].append(own.reshape(kv_heads, -1, own.shape[-1]))
                windows[layer], softcaps[layer] = window, softcap

            ids = torch.as_tensor(text, dtype=torch.long, device=model.device)[None]
            places = torch.arange(ids.shape[1], device=model.device)[None] + num_tokens
            reading = Reading(keys=keys, values=values, position_ids=places, observe=observe)
            model.base_model(ids, position_ids=places, use_cache=False, reading=reading)
            positions.append(places[0, rows].repeat(groups))
    return ReferenceWindow(
        start=start,
        opening_tokens=opening,
        keys=keys,
        values=values,
        queries=[torch.cat(own, dim=1) for own in queries],
        query_positions=torch.cat(positions),
        sliding_windows=windows,
        softcaps=softcaps,
    )


def _drawn(lengths: Sequence[int], most: int, seed: int) -> list[Tensor]:
    """Per text the indices of the tokens that become queries, in order; ``most`` of all of them together."""
    total = sum(lengths)
    if total == 0:
        raise ValueError("there is no reference text with a token in it; raise num_conversations above 0")
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most].sort().values
    starts = torch.tensor([0, *lengths]).cumsum(0).tolist()
    return [
        chosen[(chosen >= start) & (chosen < start + length)] - start
        for start, length in zip(starts, lengths, strict=False)
    ]
