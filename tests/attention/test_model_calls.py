"""A reading belongs to a call: threads, wrappers, models that drop keywords, and what a call without a reading does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from lit_cartridges import Cartridge
from lit_cartridges.attention import NAME, Reading, reads_prefixes
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.generation import generate
from lit_cartridges.models.readable import UnreadableModelError
from tests.tiny_models import VOCAB, tiny_config_model

GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def tokens(*shape, seed=0):
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def cartridge_of(model, ids):
    return Cartridge(*prefill(model, ids))


def replies_behind_text(model, prefix, ids):
    whole = torch.cat([prefix, ids[0]])[None]
    return model.generate(whole, attention_mask=torch.ones_like(whole), **GREEDY)[
        0, whole.shape[1] :
    ].tolist()


def test_four_threads_get_the_answers_of_their_own_cartridges(llama):
    before, prefixes = llama.config._attn_implementation, [tokens(9 + i, seed=i) for i in range(4)]
    cartridges = [cartridge_of(llama, prefix) for prefix in prefixes]
    prompts = [tokens(1, 5, seed=10 + i) for i in range(25)]
    expected = [[replies_behind_text(llama, prefix, ids) for ids in prompts] for prefix in prefixes]

    def ask(thread):
        torch.set_num_threads(1)
        return [generate(llama, cartridges[thread], ids, **GREEDY)[0, 5:].tolist() for ids in prompts]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == expected
    assert llama.config._attn_implementation == before != NAME
    assert "forward" not in llama.__dict__ | llama.model.__dict__


def test_another_thread_finds_the_plain_model(llama):
    ids = tokens(1, 7)
    plain = llama(ids).logits
    with reads_prefixes(llama), ThreadPoolExecutor(1) as pool:
        torch.testing.assert_close(pool.submit(lambda: llama(ids).logits).result(), plain)


def test_a_call_that_brings_no_reading_raises(llama):
    for call in (llama, llama.model):
        with (
            reads_prefixes(llama),
            pytest.raises(RuntimeError, match="brings no reading; pass reading=Reading"),
        ):
            call(tokens(1, 3))


def test_an_error_inside_a_call_leaves_nothing_behind(llama):
    """A reading of a call that ended in an error, KeyboardInterrupt included, is not that of the next."""
    ids = tokens(1, 5)
    keys, values = prefill(llama, tokens(4))

    def interrupt(*_):
        raise KeyboardInterrupt

    with reads_prefixes(llama):
        handle = llama.model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            llama(ids, reading=Reading(keys=keys, values=values))
        handle.remove()
        with pytest.raises(RuntimeError, match="brings no reading"):
            llama(ids)


@pytest.mark.parametrize("kind", ["stablelm", "nemotron"])
def test_layers_that_drop_keywords_read_all_the_same(kind):
    model = tiny_config_model(kind)
    prefix, own = tokens(9), tokens(1, 6, seed=1)
    keys, values = prefill(model, prefix)
    leaves = [key.clone().requires_grad_() for key in keys]
    with reads_prefixes(model):
        read = model(own, position_ids=torch.arange(9, 15)[None], reading=Reading(keys=leaves, values=values))
    plain = model(torch.cat([prefix, own[0]])[None]).logits[:, 9:]
    torch.testing.assert_close(read.logits, plain, atol=1e-4, rtol=1e-4)
    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(read.logits.square().sum(), leaves))


class Wrapper(torch.nn.Module):
    """As nn.DataParallel and trainers wrap a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


WRAPPERS = {
    "torch.compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": torch.nn.DataParallel,
    "a wrapper": Wrapper,
    "a wrapper in a wrapper": lambda model: Wrapper(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_models_read(llama, wrapper):
    prefix, ids = tokens(9), tokens(1, 5, seed=1)
    wrapped, cartridge = WRAPPERS[wrapper](llama), cartridge_of(llama, prefix)
    assert generate(wrapped, cartridge, ids, **GREEDY)[0, 5:].tolist() == replies_behind_text(
        llama, prefix, ids
    )
    keys, values = prefill(wrapped, prefix)
    torch.testing.assert_close(keys, prefill(llama, prefix)[0])
    with reads_prefixes(wrapped), torch.no_grad():
        read = wrapped(ids, position_ids=torch.arange(9, 14)[None], reading=Reading(keys=keys, values=values))
    plain = llama(torch.cat([prefix, ids[0]])[None]).logits[:, 9:]
    torch.testing.assert_close(read.logits, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.thorough
def test_a_model_compiled_in_place_reads_and_is_itself_again():
    """What was compiled before it read, and what was compiled while it read, must not be run for the other."""
    model = tiny_config_model("llama", num_hidden_layers=1)
    model.forward = torch.compile(model.forward, backend="eager")
    prefix, ids = tokens(9), tokens(1, 5, seed=1)
    expected = replies_behind_text(model, prefix, ids)
    assert generate(model, cartridge_of(model, prefix), ids, **GREEDY)[0, 5:].tolist() == expected
    assert replies_behind_text(model, prefix, ids) == expected
    other = generate(model, cartridge_of(model, tokens(9, seed=3)), ids, **GREEDY)[0, 5:].tolist()
    assert other != expected


def test_an_adapters_weights_take_part():
    plain = tiny_config_model("llama")
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(tiny_config_model("llama"), lora).eval()
    prefix, ids = tokens(9), tokens(1, 5, seed=1)
    ours = generate(adapted, cartridge_of(adapted, prefix), ids, **GREEDY)[0, 5:].tolist()
    whole = torch.cat([prefix, ids[0]])[None]
    assert ours == adapted.generate(input_ids=whole, **GREEDY)[0, 14:].tolist()
    assert ours != replies_behind_text(plain, prefix, ids)


def test_an_adapter_that_stands_where_a_cartridge_would_is_refused():
    tuned = get_peft_model(
        tiny_config_model("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(
        UnreadableModelError, match=r"adapter \(PROMPT_TUNING\) puts positions of its own in front"
    ):
        prefill(tuned, [1, 2])


def test_what_is_no_model_is_refused():
    for thing in ("gpt2", torch.nn.Linear(2, 2)):
        with pytest.raises(UnreadableModelError, match=f"model is a {type(thing).__name__}"):
            prefill(thing, [1, 2])


def test_gradients_of_recomputed_layers_come_from_their_own_call(llama):
    """The backward pass runs the layers again, after another call with another prefix has been made."""
    from lit_cartridges.module.recomputing import recomputes_layers

    ids, prefixes = tokens(1, 6), [prefill(llama, tokens(5, seed=seed)) for seed in (1, 2)]

    def gradients(recomputed):
        leaves = [[key.clone().requires_grad_() for key in keys] for keys, _ in prefixes]
        sums = []
        with reads_prefixes(llama):
            for keys, (_, values) in zip(leaves, prefixes, strict=True):
                reading = Reading(keys=keys, values=values)
                if recomputed:
                    with recomputes_layers(llama):
                        sums.append(llama(ids, use_cache=False, reading=reading).logits.square().sum())
                else:
                    sums.append(llama(ids, use_cache=False, reading=reading).logits.square().sum())
            return torch.autograd.grad(sum(sums), [x for keys in leaves for x in keys])

    torch.testing.assert_close(gradients(recomputed=True), gradients(recomputed=False))
