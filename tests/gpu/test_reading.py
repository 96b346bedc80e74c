"""Generation behind a cartridge, the teacher in process, and cascades."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cascade import CascadingCache, streamed_logprobs
from lit_cartridges.generation import generate, left_padded
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Sampling
from tests.gpu.agreement import (
    DEVICES,
    HALVES,
    MODELS,
    TOLERANCE,
    exact_model,
    model_on,
    require_agreement,
    tokens,
)

PROMPT_LENGTHS = (3, 9, 6)
NEW_TOKENS = 12
GREEDY = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}


def exact_logits(name, *texts):
    """fp32 logits of the plain model on the CPU, of the tokens that follow the first text."""
    with torch.no_grad():
        return exact_model(name)(torch.cat(texts)[None], use_cache=False).logits[0, len(texts[0]) :]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_generation_behind_a_cartridge(name, dtype, device):
    """Left-padded prompts; each step's logits are those of the plain model on prefix, prompt and reply."""
    model, prefix = model_on(name, device, dtype), tokens(19)
    cartridge = Cartridge(*prefill(model, prefix)).to(device)
    prompts = [tokens(n, seed=n) for n in PROMPT_LENGTHS]
    ids, mask = left_padded(prompts, 0, device)
    options = {"return_dict_in_generate": True, "output_logits": True}
    out = generate(model, cartridge, ids, mask, **GREEDY, **options)
    logits = torch.stack(out.logits, 1)
    for row, prompt in enumerate(prompts):
        reply = out.sequences[row, ids.shape[1] :].cpu()
        assert len(reply) == NEW_TOKENS
        exact = exact_logits(name, prefix, prompt, reply)[len(prompt) - 1 : -1]
        require_agreement(logits[row], exact, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_prompts_of_unequal_length_of_the_local_teacher(name, dtype, device):
    """Its replies are the plain model's best tokens, up to rounding, with the plain model's log-probabilities."""
    teacher = LocalTeacher()
    teacher.bind(model_on(name, device, dtype), None)
    teacher.stop_token_ids = (2,)
    context, prompts = tokens(30), [tokens(n, seed=n) for n in PROMPT_LENGTHS]
    completions = teacher.complete(
        context_ids=context.tolist(),
        prompts=[x.tolist() for x in prompts],
        sampling=Sampling(0.0, NEW_TOKENS),
        seeds=[1, 2, 3],
        top_k=5,
        min_mass=1.0,
    )
    for prompt, completion in zip(prompts, completions, strict=True):
        reply = torch.tensor(completion.token_ids.tolist())
        exact = exact_logits(name, context, prompt, reply).log_softmax(-1)[len(prompt) - 1 : -1]
        ids, logprobs = (torch.tensor(x) for x in completion.top_logprobs.dense())
        require_agreement(logprobs, exact.gather(1, ids.long()), dtype)
        near = TOLERANCE[dtype] * exact.abs().max()
        assert (exact.max(1).values - exact.gather(1, reply[:, None])[:, 0]).max() < near


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize(
    ("name", "cascades"), [("llama", 1), ("llama", 4), ("mistral", 1), ("gemma2", 1), ("gpt_oss", 1)]
)
def test_a_stream_through_a_cascade(name, cascades, dtype, device):
    """One sub-cache loses the oldest tokens, whatever rounding says of scores; several lose nothing here."""
    ids = tokens(2, 60)
    found = []
    for model in (exact_model(name), model_on(name, device, dtype)):
        window = 6 if cascades == 1 else 16
        cache = CascadingCache(
            config=model.config, sink_tokens=2, cascades=cascades, window_tokens=window, stride_tokens=7
        )
        found.append(streamed_logprobs(model, cache, ids.to(model.device)))
        held = sum(int(layer.stored()[0]) for layer in cache.layers) / len(cache.layers)
        assert (held < 60) == (cascades == 1)
    assert found[1].dtype == torch.float32
    require_agreement(found[1], found[0], dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_what_a_cascade_keeps_by_scores(device):
    """In fp32 everywhere, where rounding seldom decides between two tokens."""
    kept = []
    for model in (exact_model("llama"), model_on("llama", device, torch.float32)):
        cache = CascadingCache(
            config=model.config, sink_tokens=2, cascades=4, window_tokens=4, stride_tokens=5
        )
        streamed_logprobs(model, cache, tokens(1, 60).to(model.device))
        kept.append([layer.tokens.cpu() for layer in cache.layers])
    same = torch.cat([(a == b).flatten() for a, b in zip(*kept, strict=True)]).float().mean()
    assert same > 0.9
