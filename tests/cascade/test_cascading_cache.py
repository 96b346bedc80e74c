"""The cascade as a transformers cache: generating, rows, forgetting, files, cartridges, settings."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lit_cartridges.attention import reading_prefix
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cascade import CascadeFileError, CascadingCache, cascade_prefill, reads_cascades
from tests.cascade.models import dense, one_layer, random_model, tokens

TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}
NEW = 6


def cascade(model, **options) -> CascadingCache:
    """Room for 20 tokens, in strides of 8, unless said otherwise."""
    sizes = {"sink_tokens": 2, "cascades": 2, "total_tokens": 20, "stride_tokens": 8}
    return CascadingCache(config=model.config, **(sizes | options))


@torch.no_grad()
def read(model, cache: CascadingCache, ids: torch.Tensor) -> torch.Tensor:
    with reads_cascades(model):
        return model(ids, **cache_argument(cache)).logits


def generated(model, ids, cache=None, **options) -> list:
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False} | options
    if cache is None:
        return model.generate(ids, **options).tolist()
    with reads_cascades(model):
        return model.generate(ids, **cache_argument(cache), **options).tolist()


def tensors(cache: CascadingCache) -> list[torch.Tensor]:
    names = ("keys", "values", "scores", "tokens", "seen", "counts")
    return [getattr(layer, name) for layer in cache.layers for name in names]


def test_generate_while_nothing_is_lost(llama):
    ids = tokens(2, 12)
    mask = torch.arange(12)[None] >= torch.tensor([[0], [5]])
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}):
        inputs = {"attention_mask": mask.long(), **options}
        torch.manual_seed(1)
        expected = generated(llama, ids, **inputs)
        torch.manual_seed(1)
        assert generated(llama, ids, cascade(llama), **inputs) == expected


def test_generate_in_a_stream(llama):
    """Beyond the capacity: every token is the best one by plain forward calls, and prefilled tokens are read once."""
    ids, cache = tokens(1, 50), cascade(llama)
    logits, expected = read(llama, cache, ids), ids[0].tolist()
    for _ in range(NEW):
        expected.append(int(logits[0, -1].argmax()))
        logits = read(llama, cache, torch.tensor([expected[-1:]]))
    assert generated(llama, ids, cascade(llama)) == [expected]
    assert generated(llama, ids, cascade(llama), prefill_chunk_size=16) == [expected]
    prefilled = cascade(llama)
    cascade_prefill(llama, prefilled, ids[:, :48])  # a multiple of the stride: the cuts are where they were
    assert generated(llama, ids, prefilled) == [expected]
    assert prefilled.get_seq_length() == 50 + NEW - 1


def test_beams_take_their_rows_along(llama):
    cache, ids = cascade(llama), tokens(3, 40)
    logits = read(llama, cache, ids)
    swapped = cascade(llama)
    read(llama, swapped, ids)
    swapped.reorder_cache(torch.tensor([2, 0, 0]))
    again = cascade(llama)
    read(llama, again, ids[[2, 0, 0]])
    torch.testing.assert_close(tensors(swapped), tensors(again), atol=1e-5, rtol=1e-4)
    cache.batch_select_indices(torch.tensor([1]))
    cache.batch_repeat_interleave(2)
    step = logits[1:2, -1:].argmax(-1).repeat(2, 1)
    repeated, alone = read(llama, cache, step), cascade(llama)
    read(llama, alone, ids[1:2])
    torch.testing.assert_close(repeated[1:], read(llama, alone, step[:1]), **TOLERANCE)


def test_choosing_a_short_row_frees_the_columns_of_the_long_one(llama):
    cache, ids = cascade(llama), tokens(2, 16)
    mask = torch.arange(16)[None] >= torch.tensor([[0], [10]])
    with torch.no_grad(), reads_cascades(llama):
        llama(ids, attention_mask=mask, **cache_argument(cache))
    cache.batch_select_indices(torch.tensor([1]))
    assert cache.layers[0].keys.shape[2] == 6
    more = tokens(1, 4, seed=3)
    expected = dense(llama, torch.cat([ids[1:, 10:], more], dim=1))[:, -4:]
    torch.testing.assert_close(read(llama, cache, more), expected, **TOLERANCE)


def test_reset_starts_anew(llama):
    cache, ids = cascade(llama), tokens(1, 30)
    first = read(llama, cache, ids)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.nbytes == 0
    assert torch.equal(read(llama, cache, ids), first)


def test_a_copy_goes_its_own_way(llama):
    """One long text, several questions: each is asked of a copy."""
    cache, question = cascade(llama), tokens(1, 5, seed=2)
    read(llama, cache, tokens(1, 40))
    before, answer = [x.clone() for x in tensors(cache)], read(llama, copy.deepcopy(cache), question)
    read(llama, copy.deepcopy(cache), tokens(1, 30, seed=4))
    assert all(torch.equal(x, y) for x, y in zip(tensors(cache), before, strict=True))
    assert torch.equal(read(llama, cache, question), answer)


@pytest.mark.parametrize("eager_fill", [True, False])
def test_crop_while_everything_is_held(llama, eager_fill):
    cache, ids = cascade(llama, eager_fill=eager_fill), tokens(2, 11)
    read(llama, cache, ids)
    cache.crop(-4)
    assert cache.get_seq_length() == 7
    more = tokens(2, 4, seed=5)
    expected = dense(llama, torch.cat([ids[:, :7], more], dim=1))[:, 7:]
    torch.testing.assert_close(read(llama, cache, more), expected, **TOLERANCE)
    again = cascade(llama, eager_fill=eager_fill)
    read(llama, again, ids)
    for ours, theirs in zip(cache.layers, again.layers, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.counts, theirs.counts)
    cache.crop(-11)
    torch.testing.assert_close(read(llama, cache, ids), dense(llama, ids), **TOLERANCE)
    with pytest.raises(ValueError, match="crop.-12. of rows with 11 tokens"):
        cache.crop(-12)


def test_crop_does_not_bring_back_what_was_lost(llama):
    cache = cascade(llama)
    read(llama, cache, tokens(1, 21))
    with pytest.raises(ValueError, match="after 21 tokens in a cascade of 20: tokens were lost"):
        cache.crop(-1)


@pytest.mark.parametrize("shared", [True, False])
def test_saved_and_loaded_goes_on_as_if_nothing_had_happened(llama, tmp_path, shared):
    cache = cascade(llama, cascades=[2, 3], shared_heads=shared, head_reduction="median", ema_factor=0.9)
    mask = torch.arange(40)[None] >= torch.tensor([[0], [7]])
    with torch.no_grad(), reads_cascades(llama):
        llama(tokens(2, 40), attention_mask=mask, **cache_argument(cache))
    loaded = CascadingCache.load(cache.save(tmp_path / "deep" / "cascade.safetensors"), config=llama.config)
    assert loaded.settings() == cache.settings() and loaded.get_seq_length() == 40
    assert all(torch.equal(x, y) for x, y in zip(tensors(cache), tensors(loaded), strict=True))
    more = tokens(2, 19, seed=7)
    assert torch.equal(read(llama, loaded, more), read(llama, cache, more))
    assert all(torch.equal(x, y) for x, y in zip(tensors(cache), tensors(loaded), strict=True))


def test_an_empty_cascade_can_be_saved(llama, tmp_path):
    loaded = CascadingCache.load(cascade(llama).save(tmp_path / "empty.safetensors"), config=llama.config)
    ids = tokens(1, 9)
    torch.testing.assert_close(read(llama, loaded, ids), dense(llama, ids), **TOLERANCE)


def test_files_that_are_no_cascade_are_refused(llama, tmp_path):
    cache = cascade(llama)
    read(llama, cache, tokens(1, 9))
    path = cache.save(tmp_path / "cascade.safetensors")
    with pytest.raises(CascadeFileError, match="one of another model"):
        CascadingCache.load(path, config=one_layer(2).config)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CascadeFileError, match="truncated"):
        CascadingCache.load(path, config=llama.config)
    with pytest.raises(CascadeFileError, match="is no file"):
        CascadingCache.load(tmp_path / "nowhere", config=llama.config)


def test_a_cascade_of_which_a_bit_was_flipped_is_refused(llama, tmp_path):
    cache = cascade(llama)
    read(llama, cache, tokens(1, 40))
    path = cache.save(tmp_path / "cascade.safetensors")
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    for place, told in (
        (-40, "tensors_sha256 differs"),
        (8 + whole[8 : 8 + size].index(b'\\"settings') + 40, ""),
    ):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(CascadeFileError, match=f"cascade.safetensors is truncated, no cascade.*{told}"):
            CascadingCache.load(path, config=llama.config)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("keys", lambda x: x * float("nan"), "layers.0 holds NaN"),
        ("values", lambda x: x[:, :, :-1], "layers.0 has tensors of shapes that do not go together"),
        ("scores", lambda x: x[..., :-1], "do not go together"),
        ("tokens", lambda x: x.float(), "do not go together"),
        ("seen", lambda x: x.repeat(2), "do not go together"),
        ("counts", lambda x: x[:, :1], "do not go together"),
        ("keys", lambda x: x[0], "cascade"),
    ],
)
def test_a_cascade_of_before_the_checksums_is_read_and_its_tensors_judged(
    llama, tmp_path, name, change, told
):
    cache = cascade(llama)
    read(llama, cache, tokens(1, 40))
    path = cache.save(tmp_path / "cascade.safetensors")
    with safe_open(path, framework="pt") as held:
        header = json.loads(held.metadata()["cascading_cache"])
        old = {n: header[n] for n in ("format_version", "settings", "cumulative_lengths")}
        state = {n: held.get_tensor(n) for n in held.keys()}
    save_file(state, path, metadata={"cascading_cache": json.dumps(old)})
    loaded = CascadingCache.load(path, config=llama.config)
    assert all(torch.equal(x, y) for x, y in zip(tensors(cache), tensors(loaded), strict=True))
    state[f"layers.0.{name}"] = change(state[f"layers.0.{name}"]).contiguous()
    save_file(state, path, metadata={"cascading_cache": json.dumps(old)})
    with pytest.raises(CascadeFileError, match=told):
        CascadingCache.load(path, config=llama.config)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_as_a_cartridge_it_is_read_as_it_was(name):
    """Per-head token sets, un-rotated keys: the cartridge gives the logits of the cascade's next stride."""
    model = random_model(name, rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.5})
    if name == "llama":
        model = random_model(name)
    cache, ids = cascade(model), tokens(2, 45)
    read(model, cache, ids)
    cartridge = cache.to_cartridge(model, row=1, num_frozen_tokens=2)
    assert (cartridge.num_tokens, cartridge.num_frozen_tokens) == (20, 2)
    assert cartridge.provenance.init == "cascade" and cartridge.provenance.notes["tokens_read"] == 45
    cartridge.require_fit(model)
    more = tokens(1, 8, seed=9)
    keys, values = cartridge.tensors()[:2]
    with torch.no_grad(), reading_prefix(model, keys, values):
        ours = model(more, position_ids=torch.arange(20, 28)[None], use_cache=False).logits
    torch.testing.assert_close(ours[0], read(model, cache, more.repeat(2, 1))[1], **TOLERANCE)


def test_what_is_no_cartridge(llama):
    cache = cascade(llama, total_tokens=[20, 22])
    with pytest.raises(ValueError, match="this one is empty"):
        cache.to_cartridge(llama)
    read(llama, cache, tokens(2, 40))
    with pytest.raises(ValueError, match="choose row=0 to 1"):
        cache.to_cartridge(llama)
    with pytest.raises(ValueError, match=r"layers hold \[20, 22\] tokens"):
        cache.to_cartridge(llama, row=0)


def test_size_stays_fixed(llama):
    cache, sizes = cascade(llama), []
    for length in (20, 30, 60):
        read(llama, cache, tokens(1, length))
        sizes.append(cache.nbytes)
    head_dim = 8
    per_token = 2 * head_dim * 4 + 4 + 8  # keys and values, score, index
    assert sizes == [2 * 2 * 20 * per_token] * 3  # layers, heads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_tokens": 9}, "window_tokens=9 and total_tokens=20: give one"),
        ({"total_tokens": None}, "window_tokens=None and total_tokens=None"),
        ({"total_tokens": 21}, "total_tokens=21 does not leave 2 equal sub-caches beside sink_tokens=2"),
        ({"total_tokens": 2}, "total_tokens=2 does not leave"),
        ({"total_tokens": [20, 20, 20]}, "total_tokens has 3 entries for 2 layers"),
        ({"cascades": 0}, "total_tokens=20 does not leave 0 equal"),
        ({"sink_tokens": -2}, "sink_tokens=-2"),
        ({"head_reduction": "sum"}, "head_reduction='sum'; choose one of mean, max, median"),
        ({"ema_factor": 1.5}, "ema_factor=1.5"),
        ({"stride_tokens": 0}, "stride_tokens=0"),
        ({"stride_tokens": 500}, "need positions up to 519.*max_position_embeddings=512"),
    ],
)
def test_settings_that_cannot_work(llama, options, message):
    with pytest.raises(ValueError, match=message):
        cascade(llama, **options)


def test_its_name(llama):
    assert cascade(llama).method == "cascading KV cache"
    assert "StreamingLLM" in repr(cascade(llama, cascades=1))
