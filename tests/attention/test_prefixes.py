"""A cartridge made of a prefill is that prefill: same logits, same tokens, for every architecture (law 2)."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention import NAME, Reading, reading_prefix, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate, prefixed_cache
from tests.tiny_models import VOCAB

PREFIX = 19
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def dense_logits(model, prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The reference: prefix and tokens in one plain forward call of the unmodified model."""
    with torch.no_grad():
        return model(torch.cat([prefix, own])[None], use_cache=False).logits[0, len(prefix) :]


def test_packed_sequences_give_the_logits_of_the_prefill(model):
    prefix, lengths = tokens(PREFIX), (7, 1, 12, 30)
    sequences = [tokens(n, seed=n) for n in lengths]
    keys, values = prefill(model, prefix)
    positions = torch.cat([torch.arange(n) for n in lengths])[None] + PREFIX
    reading = Reading(keys=keys, values=values, position_ids=positions, lengths=lengths)
    with reads_prefixes(model), torch.no_grad():
        packed = model(
            torch.cat(sequences)[None], position_ids=positions, use_cache=False, reading=reading
        ).logits[0]
    for sequence, logits in zip(sequences, packed.split(lengths), strict=True):
        torch.testing.assert_close(logits, dense_logits(model, prefix, sequence), **TOLERANCE)


def test_left_padded_batches_give_the_logits_of_the_prefill(model):
    prefix, lengths = tokens(PREFIX), (7, 3, 12)
    sequences = [tokens(n, seed=n) for n in lengths]
    batch = torch.stack([torch.cat([torch.zeros(12 - len(s), dtype=torch.long), s]) for s in sequences])
    mask = torch.stack([(torch.arange(12) >= 12 - n).long() for n in lengths])
    seen = torch.cat([torch.ones(3, PREFIX, dtype=torch.long), mask], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0) + PREFIX
    keys, values = prefill(model, prefix)
    with reading_prefix(model, keys, values), torch.no_grad():
        logits = model(
            batch,
            attention_mask=seen,
            position_ids=positions,
            **cache_argument(prefixed_cache(len(keys), PREFIX)),
        ).logits
    for row, sequence in zip(logits, sequences, strict=True):
        torch.testing.assert_close(
            row[12 - len(sequence) :], dense_logits(model, prefix, sequence), **TOLERANCE
        )


def test_greedy_generation_gives_the_tokens_of_the_prefill(model):
    prefix, prompts = tokens(PREFIX), [tokens(5, seed=1), tokens(9, seed=2)]
    cartridge = Cartridge.from_cache(as_cache(model, prefix))
    batch = torch.stack([torch.cat([torch.zeros(9 - len(s), dtype=torch.long), s]) for s in prompts])
    mask = (batch != 0).long()
    ours = generate(model, cartridge, batch, mask, max_new_tokens=32, do_sample=False, eos_token_id=None)
    for row, prompt in zip(ours, prompts, strict=True):
        text = torch.cat([prefix, prompt])
        for _ in range(32):
            with torch.no_grad():
                text = torch.cat([text, model(text[None], use_cache=False).logits[0, -1:].argmax(-1)])
        assert row[9:].tolist() == text[len(prefix) + len(prompt) :].tolist()


def as_cache(model, prefix):
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(*prefill(model, prefix), strict=True)):
        cache.update(key[None], value[None], layer)
    return cache


def test_gradients_of_keys_and_values_equal_those_of_a_plain_cache(model):
    """The reference expands the cartridge into a transformers cache and runs the model's own eager attention."""
    lengths = (7, 1, 12)
    sequences = [tokens(n, seed=n) for n in lengths]
    probe = torch.randn(sum(lengths), VOCAB, generator=torch.Generator().manual_seed(9))
    cartridge = Cartridge.from_cache(as_cache(model, tokens(PREFIX)), num_frozen_tokens=2)

    def gradients(logits: torch.Tensor) -> list[torch.Tensor]:
        cartridge.zero_grad()
        (logits * probe).sum().backward()
        return [parameter.grad.clone() for parameter in cartridge.parameters()]

    positions = torch.cat([torch.arange(n) for n in lengths])[None] + PREFIX
    keys, values = cartridge.tensors()
    reading = Reading(keys=keys, values=values, position_ids=positions, lengths=lengths)
    with reads_prefixes(model):
        ours = gradients(
            model(
                torch.cat(sequences)[None], position_ids=positions, use_cache=False, reading=reading
            ).logits[0]
        )
    plain = [
        model(
            s[None], **cache_argument(cartridge.as_cache()), position_ids=torch.arange(len(s))[None] + PREFIX
        ).logits[0]
        for s in sequences
    ]
    theirs = gradients(torch.cat(plain))
    assert len(ours) == 2 * len(keys)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=2e-4, rtol=1e-3)
        assert mine.abs().max() > 1e-3


def test_the_models_own_attention_returns_after_the_with(llama):
    before = llama.config._attn_implementation
    with pytest.raises(RuntimeError, match="inside"), reads_prefixes(llama):
        assert llama.config._attn_implementation == NAME
        raise RuntimeError("inside")
    assert llama.config._attn_implementation == before
    assert not llama._forward_pre_hooks


def test_a_model_without_the_attention_interface_is_refused_by_name():
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=11, hidden_size=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match="BloomForCausalLM does not use transformers' attention interface"):
        prefill(model, [1, 2])


def test_a_dense_mask_is_refused(llama):
    with reads_prefixes(llama), pytest.raises(ValueError, match=r"shape \(1, 1, 3, 3\)"):
        llama(tokens(1, 3), attention_mask=torch.ones(1, 1, 3, 3, dtype=torch.bool), reading=Reading())
