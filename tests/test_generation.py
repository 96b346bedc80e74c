"""Generating with cartridges is transformers' own `generate` on the text that they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from lit_cartridges import Cartridge
from lit_cartridges.attention import NAME
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate, generate_from_prefix, greedy
from tests.tiny_models import VOCAB, tiny_model

PREFIX = torch.arange(10, 29)
GREEDY = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}


def prompts(*lengths):
    """Left-padded prompts and their mask."""
    rows = [torch.randint(8, VOCAB, (n,), generator=torch.Generator().manual_seed(n)) for n in lengths]
    longest = max(lengths)
    ids = torch.stack([torch.cat([torch.zeros(longest - len(row), dtype=torch.long), row]) for row in rows])
    mask = torch.stack([(torch.arange(longest) >= longest - n).long() for n in lengths])
    return ids, mask


def cartridge_of(model, ids=PREFIX, **options):
    return Cartridge(*prefill(model, ids), **options)


def with_text(ids, mask, prefix=PREFIX):
    """The same prompts behind the prefix as plain text: padding stays on the left."""
    rows = [torch.cat([row[m == 0], prefix, row[m == 1]]) for row, m in zip(ids, mask, strict=True)]
    masks = [torch.cat([m[m == 0], torch.ones_like(prefix), m[m == 1]]) for m in mask]
    return torch.stack(rows), torch.stack(masks)


def new_tokens(ids, prompt):
    return ids[:, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3_text"])
def test_prompts_of_unequal_length_are_continued_as_behind_the_text(name):
    model = tiny_model(name)
    ids, mask = prompts(3, 9, 6)
    text, text_mask = with_text(ids, mask)
    ours = generate(model, cartridge_of(model), ids, mask, **GREEDY)
    theirs = model.generate(text, attention_mask=text_mask, **GREEDY)
    assert ours[:, : ids.shape[1]].tolist() == ids.tolist()
    assert new_tokens(ours, ids) == new_tokens(theirs, text)


def test_samples_are_reproducible_and_those_of_the_text(llama):
    ids, mask = prompts(3, 9)
    text, text_mask = with_text(ids, mask)
    options = GREEDY | {"do_sample": True, "temperature": 1.5, "top_k": 50}
    drawn = []
    for seed, own in ((5, True), (5, True), (6, True), (5, False)):
        torch.manual_seed(seed)
        if own:
            drawn.append(new_tokens(generate(llama, cartridge_of(llama), ids, mask, **options), ids))
        else:
            drawn.append(new_tokens(llama.generate(text, attention_mask=text_mask, **options), text))
    assert drawn[0] == drawn[1] == drawn[3]
    assert drawn[0] != drawn[2]


def test_beam_search_gives_the_beams_of_the_text(llama):
    ids, mask = prompts(4, 7)
    text, text_mask = with_text(ids, mask)
    options = GREEDY | {"num_beams": 3, "num_return_sequences": 2}
    ours = generate(llama, cartridge_of(llama), ids, mask, **options)
    theirs = llama.generate(text, attention_mask=text_mask, **options)
    assert new_tokens(ours, ids) == new_tokens(theirs, text)


def test_a_streamer_gets_the_prompt_and_each_new_token(llama):
    class Heard(BaseStreamer):
        def __init__(self):
            self.puts, self.ended = [], False

        def put(self, value):
            self.puts.append(value.reshape(-1).tolist())

        def end(self):
            self.ended = True

    heard, (ids, mask) = Heard(), prompts(5)
    out = generate(llama, cartridge_of(llama), ids, mask, streamer=heard, **GREEDY)[0].tolist()
    assert heard.puts == [ids[0].tolist(), *([token] for token in out[5:])]
    assert heard.ended


def test_stop_strings_end_a_reply(llama):
    """A tokenizer of single letters, since transformers looks for stop strings inside tokens."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<bos>", "<end>", *map(chr, range(33, 127))])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.Fuse()
    letters = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    ids, mask = prompts(5)
    free = generate(llama, cartridge_of(llama), ids, mask, **GREEDY)[0, 5:].tolist()
    assert free[2:4] not in (free[:2], free[1:3])
    stop, known = letters.decode(free[2:4]), generate(llama, cartridge_of(llama), ids, mask, **GREEDY)
    stopped = generate(
        llama, cartridge_of(llama), ids, mask, stop_strings=[stop], tokenizer=letters, **GREEDY
    )
    assert stopped.tolist() == known[:, : 5 + 4].tolist()


def test_several_cartridges_are_composed(llama):
    ids, mask = prompts(5)
    first, second = cartridge_of(llama), cartridge_of(llama, torch.arange(40, 50))
    several = generate(llama, [first, second], ids, mask, **GREEDY)
    assert (
        several.tolist() == generate(llama, Cartridge.compose([first, second]), ids, mask, **GREEDY).tolist()
    )
    assert several.tolist() != generate(llama, first, ids, mask, **GREEDY).tolist()


def test_without_a_cartridge_the_model_generates_alone(llama):
    ids, mask = prompts(3, 6)
    assert (
        generate(llama, None, ids, mask, **GREEDY).tolist()
        == llama.generate(ids, attention_mask=mask, **GREEDY).tolist()
    )


def test_a_missing_mask_means_no_padding(llama):
    ids, mask = prompts(5, 5)
    cartridge = cartridge_of(llama)
    assert (
        generate(llama, cartridge, ids, **GREEDY).tolist()
        == generate(llama, cartridge, ids, mask, **GREEDY).tolist()
    )


def test_the_prefix_is_copied_for_no_row(llama, monkeypatch):
    """All rows, layers and steps read one storage per layer, of one row; the cache holds the rows' own tokens only."""
    from lit_cartridges.attention import reading

    cartridge = cartridge_of(llama)  # which tries the model out
    plain, seen = reading.MergedAttention.apply, []

    def watch(query, key, value, prefix_key, prefix_value, *rest):
        seen.append(
            (query.shape[0], key.shape, prefix_key.shape, prefix_key.data_ptr(), prefix_value.data_ptr())
        )
        return plain(query, key, value, prefix_key, prefix_value, *rest)

    monkeypatch.setattr(reading.MergedAttention, "apply", watch)
    ids, mask = prompts(3, 9, 6, 6)
    generate(llama, cartridge, ids, mask, **GREEDY)
    assert len(seen) == 2 * 10
    assert {rows for rows, *_ in seen} == {4}
    assert {tuple(prefix) for _, _, prefix, _, _ in seen} == {(1, 2, len(PREFIX), 8)}
    assert len({(key, value) for *_, key, value in seen}) == 2
    assert {key[2] for _, key, *_ in seen} == set(range(9, 19))


@pytest.mark.parametrize("fails", [False, True])
def test_the_models_own_attention_returns(llama, fails):
    before = llama.config._attn_implementation
    ids, mask = prompts(5)

    def criterion(*_, **__):
        assert llama.config._attn_implementation == NAME
        if fails:
            raise RuntimeError("on the way")
        return torch.zeros(1, dtype=torch.bool)

    options = GREEDY | {"stopping_criteria": StoppingCriteriaList([criterion])}
    if fails:
        with pytest.raises(RuntimeError, match="on the way"):
            generate(llama, cartridge_of(llama), ids, mask, **options)
    else:
        generate(llama, cartridge_of(llama), ids, mask, **options)
    assert llama.config._attn_implementation == before != NAME
    assert not llama._forward_pre_hooks
    assert "forward" not in llama.__dict__ | llama.model.__dict__


def test_an_untouched_prompt_and_cartridge_come_back(llama):
    ids, mask = prompts(3, 9)
    cartridge = cartridge_of(llama)
    before = {name: x.clone() for name, x in cartridge.state_dict().items()}
    generate(llama, cartridge, ids, mask, **GREEDY)
    assert mask.shape == (2, 9)
    assert all(torch.equal(before[name], x) for name, x in cartridge.state_dict().items())
    assert all(p.grad is None for p in cartridge.parameters())


@pytest.mark.parametrize(
    "defaults",
    [
        {},
        {"do_sample": True, "temperature": 3.0},
        {"num_beams": 4, "num_return_sequences": 2},
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"guidance_scale": 2.0},
    ],
)
def test_greedy_decoding_takes_the_likeliest_token_whatever_the_models_defaults_are(
    llama, defaults, monkeypatch
):
    monkeypatch.setattr(llama, "generation_config", copy.deepcopy(llama.generation_config))
    vars(llama.generation_config).update(defaults)
    ids = PREFIX[None]
    while ids.shape[1] < len(PREFIX) + 12:
        ids = torch.cat([ids, llama(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(
        generate_from_prefix(llama, None, None, PREFIX[None], generation_config=greedy([], 12)), ids
    )
    stop = int(ids[0, len(PREFIX) + 3])
    first = (ids[0, len(PREFIX) :] == stop).nonzero()[0, 0] + len(PREFIX) + 1
    stopped = generate_from_prefix(llama, None, None, PREFIX[None], generation_config=greedy([stop], 12))
    assert torch.equal(stopped, ids[:, :first])
