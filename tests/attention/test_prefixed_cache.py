"""Caches behind a prefix: what transformers' `generate` does with them is right, or it is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from lit_cartridges import Cartridge
from lit_cartridges.attention.cache_argument import cache_argument, cache_of
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate
from tests.tiny_models import VOCAB, tiny_config_model, tiny_model

PREFIX = torch.arange(10, 29)
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


@pytest.fixture
def cartridge(llama):
    return Cartridge(*prefill(llama, PREFIX))


def prompt(tokens, rows=1):
    ids = torch.randint(3, VOCAB, (1, tokens), generator=torch.Generator().manual_seed(tokens))
    return ids.expand(rows, -1)


def over(cartridge, ids):
    return torch.ones(len(ids), cartridge.num_tokens + ids.shape[1], dtype=torch.long)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [4, 40])
@pytest.mark.parametrize("named", [True, False])
def test_a_plain_cache_with_a_mask_over_both_gives_our_tokens(dtype, tokens, named):
    """Prompts shorter and longer than the cartridge, on a 16-bit model too, whether the cache was told its model or not."""
    model = tiny_config_model("llama").to(dtype)
    cartridge, ids = Cartridge(*prefill(model, PREFIX)), prompt(tokens, rows=3)
    cache = cartridge.as_cache(model if named else None, batch_size=3)
    theirs = model.generate(ids, attention_mask=over(cartridge, ids), **cache_argument(cache), **OPTIONS)
    assert theirs.tolist() == generate(model, cartridge, ids, **OPTIONS).tolist()


@pytest.mark.parametrize("tokens", [4, 40])
@pytest.mark.parametrize("masked", [True, False])
def test_a_mask_over_the_prompt_alone_is_refused(llama, cartridge, tokens, masked):
    ids = prompt(tokens)
    given = {"attention_mask": torch.ones_like(ids)} if masked else {}
    with pytest.raises(ValueError, match=rf"covers the {tokens} tokens .*torch.ones\(batch, {19 + tokens}\)"):
        llama.generate(ids, **cache_argument(cartridge.as_cache(llama)), **given, **OPTIONS)


def test_a_padded_mask_of_another_width_is_refused(llama, cartridge):
    ids = prompt(6, rows=2)
    mask = torch.ones(2, 19 + 4, dtype=torch.long)
    mask[0, 19] = 0
    with pytest.raises(ValueError, match="covers 23 tokens, and with the new ones the cache holds 25"):
        llama(ids, attention_mask=mask, **cache_argument(cartridge.as_cache(llama, batch_size=2)))


def test_a_second_question_through_a_used_cache_is_refused(llama, cartridge):
    cache, ids = cartridge.as_cache(llama), prompt(6)
    llama.generate(ids, attention_mask=over(cartridge, ids), **cache_argument(cache), **OPTIONS)
    with pytest.raises(
        ValueError, match="holds 10 tokens of an earlier call behind the cartridge; take a new"
    ):
        llama.generate(ids, attention_mask=over(cartridge, ids), **cache_argument(cache), **OPTIONS)


def test_a_reset_cache_is_the_cartridge_again(llama, cartridge):
    cache, ids = cartridge.as_cache(llama), prompt(6)
    first, again = (
        [
            llama.generate(ids, attention_mask=over(cartridge, ids), **cache_argument(cache), **OPTIONS),
            cache.reset(),
        ]
        for _ in range(2)
    )
    assert first[0].tolist() == again[0].tolist()


def test_the_batch_size_alone_is_no_model(cartridge):
    with pytest.raises(ValueError, match=r"as_cache\(4\): give the model first"):
        cartridge.as_cache(4)


def test_a_cartridge_of_another_model_is_refused(cartridge):
    with pytest.raises(ValueError, match="does not fit"):
        cartridge.as_cache(tiny_model("qwen3"))


NEXT = torch.tensor([[40, 50, 60]])


def test_the_next_turn_goes_on_from_the_returned_cache(llama, cartridge):
    """Only what is new is read, and the reply is the one to the whole."""
    first = generate(llama, cartridge, prompt(6), return_dict_in_generate=True, **OPTIONS)
    whole, read = torch.cat([first.sequences, NEXT], dim=1), []
    hook = llama.model.embed_tokens.register_forward_hook(lambda _, args, __: read.append(args[0].shape[1]))
    second = generate(llama, cartridge, whole, **cache_argument(cache_of(first)), **OPTIONS)
    hook.remove()
    assert read == [4, 1, 1, 1, 1]  # the last token of the first reply, and the three new ones
    assert second.tolist() == generate(llama, cartridge, whole, **OPTIONS).tolist()


def test_repetition_is_counted_over_the_whole_chat(llama, cartridge):
    options = OPTIONS | {"no_repeat_ngram_size": 1}
    first = generate(llama, cartridge, prompt(6), return_dict_in_generate=True, **options)
    whole = torch.cat([first.sequences, NEXT], dim=1)
    second = generate(llama, cartridge, whole, **cache_argument(cache_of(first)), **options)
    assert second.tolist() == generate(llama, cartridge, whole, **options).tolist()


def test_padded_rows_go_on_too(llama, cartridge):
    ids = torch.cat([prompt(6), prompt(6) + 1])
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    first = generate(llama, cartridge, ids, mask, return_dict_in_generate=True, **OPTIONS)
    whole = torch.cat([first.sequences, NEXT.expand(2, -1)], dim=1)
    mask = torch.cat([mask, torch.ones(2, 8, dtype=torch.long)], dim=1)
    second = generate(llama, cartridge, whole, mask, **cache_argument(cache_of(first)), **OPTIONS)
    assert second.tolist() == generate(llama, cartridge, whole, mask, **OPTIONS).tolist()


def test_what_does_not_go_on_is_refused(llama, cartridge):
    first = generate(llama, cartridge, prompt(6), return_dict_in_generate=True, **OPTIONS)
    whole, cache = torch.cat([first.sequences, NEXT], dim=1), cache_of(first)
    other = Cartridge(*prefill(llama, PREFIX[:7]))
    for ids, given, options, why in (
        (whole + 1, cartridge, {}, "do not begin with the 10 tokens"),
        (whole[:, :10], cartridge, {}, "do not begin with the 10 tokens"),
        (whole, other, {}, "made behind 19 positions"),
        (whole, cartridge, {"num_beams": 2}, "num_beams and num_return_sequences"),
        (whole, cartridge, {"use_cache": False}, "use_cache=False and past_key_values|cache"),
    ):
        with pytest.raises(ValueError, match=why):
            generate(llama, given, ids, **cache_argument(cache), **OPTIONS | options)
    generate(llama, cartridge, whole, **cache_argument(cache), **OPTIONS)
    with pytest.raises(ValueError, match="has been used since it was returned"):
        generate(llama, cartridge, whole, **cache_argument(cache), **OPTIONS)


@pytest.mark.parametrize("kind", ["static", "quantized", "offloaded"])
def test_other_kinds_of_cache_are_refused_by_name(llama, cartridge, kind):
    with pytest.raises(ValueError, match=f"cache_implementation='{kind}': behind a cartridge"):
        generate(llama, cartridge, prompt(6), cache_implementation=kind, **OPTIONS)
    with pytest.raises(ValueError, match="is a DynamicCache; behind a cartridge it can only be"):
        generate(llama, cartridge, prompt(6), **cache_argument(DynamicCache()), **OPTIONS)


def test_every_row_is_expanded_for_beams_and_samples(llama, cartridge):
    ids = prompt(6)
    text = torch.cat([PREFIX[None], ids], dim=1)
    for options in (
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_return_sequences": 3, "do_sample": True},
    ):
        tails = []
        for run in (
            lambda o: generate(llama, cartridge, ids, **o),
            lambda o: llama.generate(text, attention_mask=torch.ones_like(text), **o),
        ):
            torch.manual_seed(0)
            tails.append(run(OPTIONS | options)[:, -5:].tolist())
        assert tails[0] == tails[1]


@pytest.mark.parametrize(
    "options", [{"use_cache": False}, {"prefill_chunk_size": 3}, {"prompt_lookup_num_tokens": 3}], ids=str
)
def test_options_that_change_how_tokens_are_read_change_no_token(llama, cartridge, options):
    ids = torch.cat([prompt(6), prompt(6)], dim=1)
    assert (
        generate(llama, cartridge, ids, **OPTIONS | options).tolist()
        == generate(llama, cartridge, ids, **OPTIONS).tolist()
    )


def test_more_positions_than_the_model_knows_are_told(cartridge):
    model = tiny_config_model("llama", max_position_embeddings=30)
    with pytest.warns(
        UserWarning, match="take 25 positions and the reply up to 6, and the model has max_position_emb.*=30"
    ):
        generate(model, cartridge, prompt(6), **OPTIONS | {"max_new_tokens": 6})
