"""`serve --engine vllm`: what the engine in process is asked, the same answers from stock vLLM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import openai
import pytest

from tests.formats.cartridges import with_biases
from tests.serving.server import serving
from tests.serving.shelves import fill, of_text, pocket, task
from tests.serving.test_serve import (
    SEEDS,
    chat,
    expected,
    questions,
    test_a_cartridge_that_is_replaced_spoilt_or_removed_is_so_at_once,
    test_a_client_that_leaves_is_no_longer_written_for,
    test_a_dialogue_goes_on_as_attach_has_it,
    test_a_seed_decides_sampled_replies,
    test_a_stop_text_ends_a_reply_in_front_of_it,
    test_a_stream_is_the_whole_reply_in_pieces,
    test_log_probabilities_come_with_every_token,
    test_many_clients_at_once_get_what_attach_says,
    test_models_are_listed_with_what_their_files_say,
    test_nonsense_harms_nobody,
    test_other_routes_and_forms_are_refused_in_openais_form,
    test_penalties_and_biases_change_a_reply_as_they_are_defined,
    test_texts_and_ids_go_on_as_generate_has_it,
    test_what_would_be_answered_wrongly_is_refused,
)
from tests.vllm.behind import Behind, started_vllm

pytestmark = pytest.mark.vllm

# Every one of them, here against a server on vLLM: their fixtures are this file's.
__all__ = [
    "test_a_cartridge_that_is_replaced_spoilt_or_removed_is_so_at_once",
    "test_a_client_that_leaves_is_no_longer_written_for",
    "test_a_dialogue_goes_on_as_attach_has_it",
    "test_a_seed_decides_sampled_replies",
    "test_a_stop_text_ends_a_reply_in_front_of_it",
    "test_a_stream_is_the_whole_reply_in_pieces",
    "test_log_probabilities_come_with_every_token",
    "test_many_clients_at_once_get_what_attach_says",
    "test_models_are_listed_with_what_their_files_say",
    "test_nonsense_harms_nobody",
    "test_other_routes_and_forms_are_refused_in_openais_form",
    "test_penalties_and_biases_change_a_reply_as_they_are_defined",
    "test_texts_and_ids_go_on_as_generate_has_it",
    "test_what_would_be_answered_wrongly_is_refused",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("served") / "runs", **SEEDS)


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    # Blocks of 32 positions: the cartridges' placeholders share some, and end within one.
    options = ["--max_rows", "8", "--max_requests", "64", "--max_body_bytes", "20000"]
    with started_vllm(
        folder, tmp_path_factory.mktemp("tmp"), *options, vllm=["--enforce-eager", "--block-size=32"]
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=120)


def test_the_engine_that_was_found_is_said(server):
    assert server.told[0] == f"serving {server.url}/v1 on vLLM 0.32.0:\n"


def test_cartridges_of_one_length_are_not_mixed_up(client, folder):
    """Their placeholders are the same tokens: without a salt, the second would be answered from the first one's blocks."""
    cut, other = of_text(1).num_tokens, of_text(2)
    twin = type(other)(
        [x[:, :cut].detach() for x in other.tensors()[0]],
        [x[:, :cut].detach() for x in other.tensors()[1]],
        num_frozen_tokens=other.num_frozen_tokens,
        provenance=other.provenance,
    )
    twin.save_pretrained(folder / "twin")
    frozen, tokenizer = pocket()
    try:
        for question in questions("a")[:3] + questions("b")[:3]:
            said = twin.attach(frozen, tokenizer).chat(question, max_new_tokens=24)
            assert chat(client, "a", question).choices[0].message.content == expected("a", question)
            assert chat(client, "twin", question).choices[0].message.content == said
    finally:
        shutil.rmtree(folder / "twin")


def test_a_damaged_file_beside_them_harms_nobody(client, folder):
    (folder / "empty").mkdir()
    (folder / "empty" / "cartridge.safetensors").touch()
    question = questions("a")[1]
    with pytest.raises(openai.BadRequestError):
        chat(client, "empty", question)
    assert chat(client, "a", question).choices[0].message.content == expected("a", question)
    shutil.rmtree(folder / "empty")


def test_what_vllm_would_compute_anew_is_refused_and_spoils_nothing(server, client):
    """Such requests skip vLLM's prefix cache; it would read the placeholders as text, and keep that for all that follow."""
    question = questions("a")[3]
    chat_body = {"model": "a", "messages": [{"role": "user", "content": question}], "max_tokens": 2}
    text_body = {"model": "a", "prompt": question, "max_tokens": 2}
    for more in (
        {"prompt_logprobs": 1},
        {"echo": True, "logprobs": True},
        {"prompt_logprob_token_ids": [1]},
        {"kv_transfer_params": {"lit_cartridge": "a", "prompt_token_ids": [1]}},
        {"cache_salt": "a"},
        {"truncate_prompt_tokens": 3},
        {"repetition_penalty": 1.2},
        {"structured_outputs": {"choice": ["a"]}},
        {"vllm_xargs": {}},
    ):
        for path, body in (("/v1/chat/completions", chat_body), ("/v1/completions", text_body)):
            more = {name: 1 if value is True and path == "/v1/completions" and name == "logprobs" else value
                    for name, value in more.items()}  # fmt: skip
            status, answer = server.ask(path, body | more)
            assert (status, answer["error"]["param"]) == (400, next(iter(more))), answer
    for path in (
        *("/v1/responses", "/v1/messages", "/v1/chat/completions/batch", "/v1/chat/completions/render"),
        *("/v1/completions/render", "/inference/v1/generate", "/tokenize", "/pooling", "/reset_prefix_cache"),
    ):
        assert server.ask(path, chat_body)[1]["error"]["code"] == "unknown_route"
    assert chat(client, "a", question).choices[0].message.content == expected("a", question)


def test_a_bias_per_key_is_refused_with_both_ways_out(client, folder):
    with_biases(of_text(1)).save_pretrained(folder / "biased")
    try:
        with pytest.raises(openai.BadRequestError, match="--engine local.*--model.init.bias false"):
            chat(client, "biased", "who ?")
    finally:
        shutil.rmtree(folder / "biased")


@pytest.mark.parametrize(
    "given",
    [
        {"lit_cartridge": "nowhere", "lit_cartridge_tokens": tokens}
        for tokens in (-1, 0, True, "80", None, [80], 10**30)
    ]
    + [{"lit_cartridge": name, "lit_cartridge_tokens": 40} for name in (None, 7, [], "../a", "\0")]
    + [{"lit_cartridge": "nowhere"}, {"lit_cartridge_tokens": 40}, {}],
)
def test_nothing_that_the_scheduler_is_told_ends_the_engine(server, given):
    behind = Behind(server.process.pid)
    body = {"model": "teacher", "prompt": [3] * 80, "max_tokens": 1, "cache_salt": "nonsense"}
    assert behind.ask(body | {"kv_transfer_params": given})[0] in (200, 400, 500)
    assert behind.ask(body)[0] == 200 and server.ask("/health")[0] == 200


def test_a_cartridge_that_a_worker_cannot_read_fails_its_request_alone(server, client):
    behind = Behind(server.process.pid)
    body = {"model": "teacher", "prompt": [3] * 80 + [7, 8], "max_tokens": 4, "cache_salt": "nowhere"}
    lost = {"kv_transfer_params": {"lit_cartridge": "nowhere", "lit_cartridge_tokens": 80}}
    status, answer = behind.ask(body | lost)
    assert status == 500, answer
    # As many placeholders as there are tokens, and more: one is left to compute.
    beyond = {"kv_transfer_params": {"lit_cartridge": "nowhere", "lit_cartridge_tokens": 10_000}}
    assert behind.ask(body | beyond)[0] == 500
    assert behind.ask(body)[0] == 200, "the blocks that were not written are not in the cache"
    question = questions("b")[2]
    assert chat(client, "b", question).choices[0].message.content == expected("b", question)
    assert server.ask("/health")[0] == 200


def test_nobody_reaches_vllm_without_its_key(server):
    behind = Behind(server.process.pid)
    body = {"model": "teacher", "prompt": [3, 4], "max_tokens": 1}
    assert behind.ask(body, key="another")[0] == 401 and behind.ask(body)[0] == 200


def test_a_corpus_is_read_in_the_context_and_all_goes_with_the_server(folder, tmp_path):
    (tmp_path / "a.txt").write_text(task(1).corpus.text)
    corpora = ["--corpora", json.dumps([str(tmp_path / "a.txt")])]
    with started_vllm(folder, tmp_path, *corpora, vllm=["--enforce-eager"]) as running:
        corpus = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0, timeout=120)
        for question in questions("a")[:3]:
            reply = chat(corpus, "a:icl", question)
            assert reply.choices[0].message.content == expected("a", question)
        behind = Behind(running.process.pid)
        (spool,) = Path(tmp_path).glob("lit_cartridges_serve_*/cartridges")
        assert spool.parent.stat().st_mode & 0o077 == 0
        behind.kill()
        until = time.monotonic() + 10
        while (health := running.ask("/health")[0]) == 200 and time.monotonic() < until:
            time.sleep(0.1)
        assert health == 503
        answer = running.ask("/v1/completions", {"model": "a", "prompt": "who", "max_tokens": 2})
        assert answer[0] == 503 and "vLLM's server has ended" in answer[1]["error"]["message"]
        status, _, told = running.end(signal.SIGTERM, timeout_s=90)
        assert status == 0 and "its log" in told
        assert not spool.exists() and not behind.running()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            '--speculative-config={"method": "ngram", "num_speculative_tokens": 2}',
            "speculative decoding is not served.*draft",
        ),
        (
            "--no-such-option",
            r"ended with exit status 2 before.*\n  error: unrecognized arguments: --no-such-option\n",
        ),
    ],
)
def test_an_option_that_cannot_work_ends_the_start_with_its_reason(folder, tmp_path, option, told):
    with (
        pytest.raises(AssertionError, match=told),
        started_vllm(folder, tmp_path, vllm=["--enforce-eager", option]),
    ):
        pass


def test_sigterm_while_vllm_starts_leaves_nothing(folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "lit_cartridges.cli",
        "serve",
        str(folder),
        "--port",
        "0",
        "--engine",
        "vllm",
    ]
    own = {"LIT_CARTRIDGES_VLLM": os.environ["VLLM_PYTHON"], "TMPDIR": str(tmp_path)}
    starting = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        behind, until = None, time.monotonic() + 120
        while behind is None and time.monotonic() < until:
            time.sleep(0.1)
            with suppress(ValueError):  # it is not there yet
                behind = Behind(starting.pid)
        starting.send_signal(signal.SIGTERM)
        assert starting.wait(90) == 128 + signal.SIGTERM
    finally:
        starting.kill()
        starting.communicate()
    assert behind and not behind.running() and not list(tmp_path.glob("lit_cartridges_serve_*"))


def test_vllm_is_taken_by_default_where_it_is_named(folder, tmp_path):
    assert os.environ["VLLM_PYTHON"]
    with serving(
        folder, "--device", "cpu", env={"LIT_CARTRIDGES_VLLM": os.environ["VLLM_PYTHON"]}
    ) as running:
        assert " in this process, on cpu:" in running.told[0]
        assert "engine local: device='cpu' is of the engine in process" in running.end(signal.SIGTERM)[2]
