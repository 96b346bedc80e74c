"""`serve --engine vllm` with layers of sliding windows and of full attention, over two processes, in pieces of 64 tokens and with
so few blocks that requests are taken out again: tokens and log-probabilities of the engine in process all the same."""

from __future__ import annotations

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.generation import generate
from tests.tiny_models import tiny_config_model
from tests.tiny_run import END, FIRST_WORD, VOCAB, tokenizer
from tests.vllm.behind import Behind, started_vllm

pytestmark = pytest.mark.vllm

KINDS = {
    "gemma3_text": {
        "num_hidden_layers": 3,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 32,
    },
    "qwen3": {},
}
POSITIONS = {"short": 37, "even": 128, "long": 203}  # blocks have 32, and the window 64
TOLERANCE_NATS = 1e-3
NEW = 24


def words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(FIRST_WORD, VOCAB) for _ in range(count)]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return tiny_config_model(request.param, head_dim=32, **KINDS[request.param])


@pytest.fixture(scope="module")
def cartridges(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    rng = random.Random(0)
    known = Provenance(base_model=str(folder), fingerprint=Fingerprint.of_config(model.config))
    return {
        name: Cartridge(*prefill(model, words(rng, count)), num_frozen_tokens=1, provenance=known)
        for name, count in POSITIONS.items()
    }


@pytest.fixture(scope="module")
def server(cartridges, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name, cartridge in cartridges.items():
        cartridge.save_pretrained(folder / name)
    vllm = [
        "--enforce-eager",
        "--block-size=32",
        "--max-num-batched-tokens=64",
        "--num-gpu-blocks-override=40",
    ]
    options = [
        "--tensor_parallel_size",
        "2",
        "--max_model_len",
        "512",
        "--max_rows",
        "16",
        "--served_name",
        "tiny",
    ]
    with started_vllm(folder, tmp_path_factory.mktemp("tmp"), *options, vllm=vllm) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=300)


def named(cartridges, name: str) -> Cartridge | None:
    parts = [] if name == "tiny" else [cartridges[part] for part in name.split("+")]
    return Cartridge.compose(parts) if len(parts) > 1 else parts[0] if parts else None


def expected(model, cartridge, prompt: list[int], new: int) -> list[int]:
    options = {"do_sample": False, "eos_token_id": [END], "pad_token_id": 0}
    out = generate(model, cartridge, torch.tensor([prompt]), max_new_tokens=new, **options)
    return out[0, len(prompt) :].tolist()


def asked(client, name: str, prompt: list[int], new: int):
    return client.completions.create(model=name, prompt=prompt, temperature=0, max_tokens=new, logprobs=5)


def test_tokens_and_log_probabilities_are_those_in_process(model, cartridges, server, client, figure):
    rng = random.Random(1)
    names = [*POSITIONS, "long+short", "even+long", "tiny"]
    requests = [(name, words(rng, rng.choice([3, 20, 70]))) for name in names for _ in range(4)]
    rng.shuffle(requests)
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda one: asked(client, *one, NEW), requests))
    largest, vocabulary = 0.0, tokenizer()
    for (name, prompt), reply in zip(requests, replies, strict=True):
        cartridge = named(cartridges, name)
        ids = expected(model, cartridge, prompt, NEW)
        assert reply.choices[0].text == vocabulary.decode(ids, skip_special_tokens=True), name
        assert reply.usage.completion_tokens == len(ids)
        held = 0 if cartridge is None else cartridge.num_tokens
        assert reply.usage.prompt_tokens == held + len(prompt)
        logprobs = next_logprobs(model, cartridge, prompt + ids[:-1])[len(prompt) - 1 :]
        for row, token, told in zip(logprobs, ids, reply.choices[0].logprobs.token_logprobs, strict=True):
            largest = max(largest, abs(float(row[token]) - told))
    figure(
        f"{model.config.model_type}: {len(requests)} replies are the same, largest difference {largest:.2g} nats"
    )
    assert largest < TOLERANCE_NATS


@torch.no_grad()
def next_logprobs(model, cartridge, ids: list[int]):
    given = torch.tensor([ids])
    if cartridge is None:
        return model(given).logits[0].log_softmax(-1)
    cache = cartridge.as_cache(model)
    mask = torch.ones(1, cartridge.num_tokens + len(ids), dtype=torch.long)
    return model(given, past_key_values=cache, attention_mask=mask).logits[0].log_softmax(-1)


def test_requests_that_are_taken_out_and_begun_anew_end_the_same(model, cartridges, server, client, figure):
    rng, behind = random.Random(2), Behind(server.process.pid)
    before = behind.metric("vllm:num_preemptions_total")
    requests = [(rng.choice([*POSITIONS, "tiny"]), words(rng, 10)) for _ in range(12)]
    with ThreadPoolExecutor(12) as threads:
        replies = list(threads.map(lambda one: asked(client, *one, 150), requests))
    preempted = behind.metric("vllm:num_preemptions_total") - before
    figure(f"{model.config.model_type}: {preempted:.0f} preemptions of {len(requests)} requests")
    assert preempted > 0
    for (name, prompt), reply in zip(requests, replies, strict=True):
        ids = expected(model, named(cartridges, name), prompt, 150)
        assert reply.choices[0].text == tokenizer().decode(ids, skip_special_tokens=True), name


def test_a_cartridge_that_a_worker_cannot_read_harms_nobody_else(model, cartridges, server, client):
    behind, prompt = Behind(server.process.pid), words(random.Random(3), 10)
    lost = {"kv_transfer_params": {"lit_cartridge": "nowhere", "lit_cartridge_tokens": 80}}
    body = {"model": "teacher", "prompt": [3] * 80 + [7, 8], "max_tokens": 4, "cache_salt": "nowhere"}
    status, _ = behind.ask(body | lost)
    marked = [one.name for one in Path(f"/proc/{behind.pid}/cwd/cartridges").glob("*.lost")]
    if model.config.model_type == "qwen3":
        assert (status, marked) == (500, []), "vLLM fails it"
    else:
        assert (status, marked) == (200, ["nowhere.lost"]), "and here our server, which looks for the mark"
    assert server.ask("/health")[0] == 200
    for name in POSITIONS:
        ids = expected(model, named(cartridges, name), prompt, NEW)
        said = asked(client, name, prompt, NEW).choices[0].text
        assert said == tokenizer().decode(ids, skip_special_tokens=True), name


def test_ctrl_c_ends_all(server):
    behind = Behind(server.process.pid)
    folder = Path(f"/proc/{behind.pid}/cwd").resolve()
    assert folder.name.startswith("lit_cartridges_serve_") and folder.is_dir()
    status, _, told = server.end(signal.SIGINT, timeout_s=90)
    assert status == 130 and "Traceback" not in told
    assert not behind.running() and not folder.exists()
