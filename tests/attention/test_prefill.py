"""A prefill in windows is one plain forward call over all tokens, and holds no tensor of [tokens of a window, all keys]."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import DynamicCache

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.cached_rows import rows_part
from lit_cartridges.attention.parts import RowsPart
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.attention.prefixed_cache import left_padded, prefixed_cache
from tests.tiny_models import ARCHITECTURES, VOCAB, tiny_config_model

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
WINDOW, LONG = 128, 2048


def tokens(count: int) -> torch.Tensor:
    return torch.randint(3, VOCAB, (count,), generator=torch.Generator().manual_seed(count))


@torch.no_grad()
def plain(model, ids):
    """Logits [tokens, vocabulary], keys and values per layer [kv_heads, tokens, head_dim], by transformers alone."""
    cache = DynamicCache()
    logits = model(ids[None], use_cache=True, **cache_argument(cache)).logits[0]
    return logits, *([getattr(layer, name)[0] for layer in cache.layers] for name in ("keys", "values"))


@torch.no_grad()
def logits_in_windows(model, ids, window_tokens, mask=None):
    """Of rows [B, tokens], each window behind the cached keys of those before."""
    cache, logits = prefixed_cache(model.config.num_hidden_layers, 0), []
    with reads_prefixes(model):
        for start in range(0, ids.shape[1], window_tokens):
            stop = min(start + window_tokens, ids.shape[1])
            positions = torch.arange(start, stop)[None].expand(len(ids), -1)
            if mask is not None:
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, start:stop]
            out = model(
                ids[:, start:stop],
                attention_mask=None if mask is None else mask[:, :stop],
                position_ids=positions,
                **cache_argument(cache),
                use_cache=True,
                reading=Reading(position_ids=positions),
            )
            logits.append(out.logits)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("window_tokens", [1, 13, 24, 64])
def test_keys_values_and_logits_are_those_of_one_call(model, window_tokens):
    ids = tokens(90)
    logits, keys, values = plain(model, ids)
    torch.testing.assert_close(logits_in_windows(model, ids[None], window_tokens)[0], logits, **TOLERANCE)
    for mine, theirs in zip(prefill(model, ids, window_tokens=window_tokens), (keys, values), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, **TOLERANCE)


def test_windows_that_are_longer_than_a_block_of_a_sliding_layer(model):
    ids = tokens(460)
    for window_tokens in (300, 460):
        for mine, theirs in zip(
            prefill(model, ids, window_tokens=window_tokens), plain(model, ids)[1:], strict=True
        ):
            for one, other in zip(mine, theirs, strict=True):
                torch.testing.assert_close(one, other, **TOLERANCE)


def test_a_prefill_behind_another(model):
    ids = tokens(120)
    before = prefill(model, ids[:50], window_tokens=20)
    for mine, theirs in zip(
        prefill(model, ids[50:], behind=before, window_tokens=33), plain(model, ids)[1:], strict=True
    ):
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, **TOLERANCE)


@pytest.mark.parametrize("window_tokens", [1, 10, 64])
def test_padded_rows_in_windows(model, window_tokens):
    """The longer padding takes more than a whole window of 10."""
    texts = [tokens(90), tokens(75)]
    ids, mask = left_padded([x.tolist() for x in texts], 0, "cpu")
    for row, text in zip(logits_in_windows(model, ids, window_tokens, mask), texts, strict=True):
        torch.testing.assert_close(row[-len(text) :], plain(model, text)[0], **TOLERANCE)


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that an operation gave, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return out


def long_model(name: str):
    return tiny_config_model(name, **(ARCHITECTURES[name] | {"max_position_embeddings": 2 * LONG}))


# A soft-cap has no fused kernel: `attend_plain` makes the scores of a chunk of queries, of bounded size.
@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"gemma2"}))
def test_no_tensor_holds_a_number_for_each_token_of_a_window_and_each_key(name):
    model, ids = long_model(name), tokens(LONG)
    before = prefill(model, ids[: LONG // 2], window_tokens=WINDOW)
    for given, read in ((None, ids), (before, ids[LONG // 2 :])):
        with LargestTensor() as largest:
            prefill(model, read, behind=given, window_tokens=WINDOW)
        assert largest.elements < WINDOW * LONG // 2


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_nor_with_padding(name):
    model = long_model(name)
    ids, mask = left_padded([tokens(LONG).tolist(), tokens(LONG - 100).tolist()], 0, "cpu")
    with LargestTensor() as largest:
        logits_in_windows(model, ids, WINDOW, mask)
    # Logits [2, tokens, vocabulary], joined by the test, are the largest.
    assert largest.elements <= 2 * LONG * VOCAB


def test_a_dense_mask_is_noticed(monkeypatch):
    def dense(query, key, real, window):
        if query.shape[2] == key.shape[2]:
            return rows_part(query, key, real, window)
        count = key.shape[2]
        hidden = torch.arange(count - query.shape[2], count)[:, None] < torch.arange(count)
        return RowsPart(causal=False, mask=torch.zeros(hidden.shape).masked_fill(hidden, -1e30)[None, None])

    monkeypatch.setattr("lit_cartridges.attention.reading.rows_part", dense)
    model = long_model("llama")
    with LargestTensor() as largest:
        prefill(model, tokens(LONG), window_tokens=WINDOW)
    assert largest.elements >= WINDOW * LONG
