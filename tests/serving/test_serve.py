"""The real command, asked by OpenAI's own client: answers are those of `Cartridge.attach`, whoever else asks, and nonsense harms
nobody."""

from __future__ import annotations

import json
import random
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files import TENSORS
from lit_cartridges.conversations.renderer import user
from lit_cartridges.generation import generate
from lit_cartridges.text import text_ids
from tests.serving.server import Server, serving
from tests.serving.shelves import SERVED, fill, of_text, pocket, task

NEW = 24
SEEDS = {"a": 1, "b": 2, "c": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("served") / "runs", **SEEDS)


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, "--max_rows", "8", "--max_requests", "64", "--max_body_bytes", "20000") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60)


def chat(client, model: str, *contents: str, **options):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    known = {"temperature": 0, "max_tokens": NEW}
    return client.chat.completions.create(model=model, messages=messages, **(known | options))


def parts(model: str) -> list[Cartridge]:
    return [] if model == SERVED else [of_text(SEEDS[name]) for name in model.split("+")]


def expected(model: str, question: str) -> str:
    frozen, tokenizer = pocket()
    held = parts(model)
    if held:
        return Cartridge.compose(held).attach(frozen, tokenizer).chat(question, max_new_tokens=NEW)
    from lit_cartridges.conversations.renderer import ChatRenderer

    renderer = ChatRenderer(tokenizer)
    ids = torch.tensor([renderer.bare_prompt_ids([user(question)])])
    stops = list(renderer.stop_token_ids(frozen.generation_config))
    out = generate(frozen, None, ids, max_new_tokens=NEW, do_sample=False, eos_token_id=stops, pad_token_id=0)
    return renderer.text(out[0, ids.shape[1] :].numpy())


def questions(model: str) -> list[str]:
    seed = SEEDS.get(model.split("+")[0], 1)
    return [question.prompt for question in task(seed).questions()[:6]]


MODELS = ["a", "b", "c", "a+b", "c+a", SERVED]


def test_models_are_listed_with_what_their_files_say(client, server):
    known = {one.id: one.model_dump() for one in client.models.list()}
    assert list(known) == [SERVED, "a", "b", "c"]
    told = known["b"]["cartridge"]
    held = of_text(2)
    assert told["num_tokens"] == held.num_tokens and told["corpus"] == "text 2"
    assert told["compression"] == told["corpus_tokens"] / held.num_tokens and known["b"]["parent"] == SERVED
    assert known["b"]["max_model_len"] == known[SERVED]["max_model_len"] - held.num_tokens
    assert client.models.retrieve("a").id == "a" and client.models.retrieve(SERVED).id == SERVED


def test_many_clients_at_once_get_what_attach_says(client):
    asked = [(model, question) for model in MODELS for question in questions(model)]
    random.Random(1).shuffle(asked)

    def answer(pair):
        return chat(client, *pair)

    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(answer, asked))
    for (model, question), reply in zip(asked, replies, strict=True):
        assert reply.choices[0].message.content == expected(model, question)
        held = Cartridge.compose(parts(model)).num_tokens if parts(model) else 0
        assert reply.usage.prompt_tokens_details.cached_tokens == held
        assert reply.usage.prompt_tokens > held and reply.usage.completion_tokens <= NEW


def test_a_dialogue_goes_on_as_attach_has_it(client):
    frozen, tokenizer = pocket()
    first, second = questions("a")[:2]
    attached = of_text(1).attach(frozen, tokenizer)
    answer = attached.chat(first, max_new_tokens=NEW)
    messages = [("user", first), ("assistant", answer), ("user", second)]
    said = attached.chat([{"role": role, "content": text} for role, text in messages], max_new_tokens=NEW)
    assert chat(client, "a", first, answer, second).choices[0].message.content == said


def test_a_stream_is_the_whole_reply_in_pieces(client):
    for model in ("a", "a+b", SERVED):
        question = questions(model)[0]
        stream = chat(client, model, question, stream=True, n=2, stream_options={"include_usage": True})
        texts, ends, usage = {0: "", 1: ""}, {}, None
        for event in stream:
            usage = event.usage or usage
            for choice in event.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
        assert texts[0] == texts[1] == expected(model, question) and set(ends) == {0, 1}
        assert usage == chat(client, model, question, n=2).usage


def test_a_stop_text_ends_a_reply_in_front_of_it(client):
    question = questions("a")[0]
    said = expected("a", question)
    word = said.split()[2]
    for stream in (False, True):
        reply = chat(client, "a", question, stop=[word], stream=stream)
        if stream:
            choices = [choice for event in reply for choice in event.choices]
            text, finish = (
                "".join(choice.delta.content or "" for choice in choices),
                choices[-1].finish_reason,
            )
        else:
            text, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
        assert text == said[: said.index(word)].strip() and finish == "stop"
    assert chat(client, "a", question, max_tokens=2).choices[0].finish_reason == "length"


def test_a_seed_decides_sampled_replies(client):
    sampled = {"temperature": 1.5, "seed": 11, "n": 4}

    def texts(**more):
        return [choice.message.content for choice in chat(client, "a", "who ?", **(sampled | more)).choices]

    first = texts()
    assert texts() == first and len(set(first)) > 1 and texts(seed=12) != first
    assert texts(seed=None) != texts(seed=None)


class Changed(LogitsProcessor):
    """What presence_penalty=1, frequency_penalty=0.5 and one token's bias of -100 are, by their definition."""

    def __init__(self, prompt_tokens: int, banned: int) -> None:
        self.prompt_tokens, self.banned = prompt_tokens, banned

    def __call__(self, input_ids, scores):
        said = torch.bincount(input_ids[0, self.prompt_tokens :], minlength=scores.shape[-1])
        scores = scores - 1.0 * (said > 0) - 0.5 * said
        scores[0, self.banned] -= 100.0
        return scores


def test_penalties_and_biases_change_a_reply_as_they_are_defined(client):
    frozen, tokenizer = pocket()
    for question in questions("b")[:3]:
        attached = of_text(2).attach(frozen, tokenizer)
        prompt = attached.renderer.prompt_ids([user(question)])
        banned = text_ids(tokenizer, expected("b", question).split()[0])[0]
        said = attached.chat(
            question, max_new_tokens=NEW, logits_processor=LogitsProcessorList([Changed(len(prompt), banned)])
        )
        options = {"presence_penalty": 1, "frequency_penalty": 0.5, "logit_bias": {str(banned): -100}}
        assert chat(client, "b", question, **options).choices[0].message.content == said
        assert said != expected("b", question)


def test_log_probabilities_come_with_every_token(client):
    question = questions("b")[0]
    (whole,) = chat(client, "b", question, logprobs=True, top_logprobs=3).choices
    streamed = [
        noted
        for event in chat(client, "b", question, logprobs=True, top_logprobs=3, stream=True)
        for choice in event.choices
        if choice.logprobs
        for noted in choice.logprobs.content
    ]
    assert streamed == whole.logprobs.content
    for noted in streamed:
        assert noted.token == noted.top_logprobs[0].token and noted.logprob == noted.top_logprobs[0].logprob
        assert len(noted.top_logprobs) == 3 and noted.top_logprobs[1].logprob <= noted.logprob <= 0


@pytest.mark.parametrize("model", ["b", "b+c", SERVED])
def test_texts_and_ids_go_on_as_generate_has_it(client, model):
    frozen, tokenizer = pocket()
    prompt = " ".join(task(2).corpus.text.split()[:9])
    ids = text_ids(tokenizer, prompt)
    held = Cartridge.compose(parts(model)) if parts(model) else None
    stops = (
        list(frozen.generation_config.eos_token_id or [])
        if isinstance(frozen.generation_config.eos_token_id, list)
        else [frozen.generation_config.eos_token_id]
    )
    out = generate(
        frozen,
        held,
        torch.tensor([ids]),
        max_new_tokens=NEW,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=0,
    )
    said = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    for given in (prompt, ids):
        reply = client.completions.create(
            model=model, prompt=given, temperature=0, max_tokens=NEW, logprobs=2
        )
        assert reply.choices[0].text == said
        assert len(reply.choices[0].logprobs.tokens) == reply.usage.completion_tokens
    pieces = client.completions.create(model=model, prompt=ids, temperature=0, max_tokens=NEW, stream=True)
    assert "".join(event.choices[0].text for event in pieces) == said


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
REFUSED = [
    (openai.NotFoundError, {"model": "d"}, "there are: a, b, c"),
    (openai.NotFoundError, {"model": "../a"}, "there is no cartridge"),
    (openai.NotFoundError, {"model": "a+"}, "there is no cartridge"),
    (openai.NotFoundError, {"model": f"a+{SERVED}"}, "there is no cartridge"),
    (openai.BadRequestError, {"messages": [{"role": "system", "content": "x"}]}, "place of the system"),
    (openai.BadRequestError, {"messages": [{"role": "user", "content": "w " * 5000}]}, "leave room for 0"),
    (openai.BadRequestError, {"max_tokens": 4090}, "leave room for"),
    (openai.BadRequestError, {"n": 9}, "n: must be"),
    (openai.BadRequestError, {"n": 8, "max_tokens": 1000000}, "leave room for"),
    (openai.BadRequestError, {"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
    (openai.BadRequestError, {"extra_body": {"kv_transfer_params": {}}}, "kv_transfer_params"),
    (openai.BadRequestError, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools.*place a cartridge stands"),
    (openai.BadRequestError, {"extra_body": {"repetition_penalty": 1.2}}, "no tokens that could be counted"),
    (openai.BadRequestError, {"extra_body": {"echo": True}}, "could be echoed"),
    (openai.BadRequestError, {"extra_body": {"cache_salt": "x"}}, "cache_salt"),
    (openai.BadRequestError, {"messages": IMAGE}, "asked in text alone"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "options", "told"), REFUSED)
def test_what_would_be_answered_wrongly_is_refused(client, error, options, told):
    known = {"model": "a", "messages": [{"role": "user", "content": "who ?"}]}
    with pytest.raises(error, match=told):
        client.chat.completions.create(**(known | options))


def test_other_routes_and_forms_are_refused_in_openais_form(server):
    for path, body, headers, status, code in [
        ("/v1/embeddings", {}, {}, 404, "unknown_route"),
        ("/v1/responses", {"model": "a"}, {}, 404, "unknown_route"),
        ("/v1/chat/completions", None, {}, 405, "unknown_route"),
        ("/v1/chat/completions", b"{", {}, 400, "invalid_json"),
        ("/v1/chat/completions", b'{"a": NaN}', {}, 400, "invalid_json"),
        ("/v1/chat/completions", b"[" * 15000, {}, 400, "invalid_json"),
        ("/v1/chat/completions", b"\xff", {}, 400, "invalid_json"),
        ("/v1/chat/completions", b'"' + b"x" * 30000 + b'"', {}, 413, "body_too_large"),
        ("/v1/chat/completions", {}, {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ("/v1/chat/completions", {}, {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ("/v1/models/zzz", None, {}, 404, "model_not_found"),
        ("/v1/models", None, {"Host": "evil.example"}, 403, "foreign_host"),
    ]:
        got, answer = server.ask(path, body, headers=headers)
        assert (got, answer["error"]["code"]) == (status, code), answer
        assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert server.ask("/health") == (200, {"status": "alive"}) and server.ask("/ready")[0] == 200


def test_a_cartridge_that_is_replaced_spoilt_or_removed_is_so_at_once(server, client, folder):
    question = questions("c")[0]
    of_text(3).save_pretrained(folder / "new" / "cartridge")
    before = chat(client, "new", question).choices[0].message.content
    assert before == expected("c", question)
    of_text(1).save_pretrained(folder / "new" / "cartridge")
    assert chat(client, "new", question).choices[0].message.content == expected("a", question) != before
    file = folder / "new" / "cartridge" / TENSORS
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(openai.BadRequestError, match="truncated"):
        chat(client, "new", question)
    assert "new" not in [one.id for one in client.models.list()]
    shutil.rmtree(folder / "new")
    with pytest.raises(openai.NotFoundError):
        chat(client, "new", question)
    assert chat(client, "c", question).choices[0].message.content == expected("c", question)


def metric(server: Server, name: str) -> float:
    lines = server.ask("/metrics")[1].splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"lit_cartridges_{name}"))


def test_what_happens_is_counted(server, client):
    names = (
        "generated_tokens_total",
        "refusals_total",
        "cartridge_hits_total",
        "time_to_first_token_seconds_count",
    )
    before = [metric(server, name) for name in names]
    reply = chat(client, "a", questions("a")[0])
    server.ask("/v1/chat/completions", {})
    after = [metric(server, name) for name in names]
    assert [y - x for x, y in zip(before, after, strict=True)] == [reply.usage.completion_tokens, 1, 1, 1]


def raw(server: Server, data: bytes) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(data)
    return connection


def post(body: dict) -> bytes:
    data = json.dumps(body).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(data)}", "", ""]).encode() + data


LONG = {
    "model": SERVED,
    "messages": [{"role": "user", "content": "who ?"}],
    "max_tokens": 3000,
    "temperature": 1.9,
    "n": 4,
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_no_longer_written_for(server, client, stream):
    connections = [raw(server, post({**LONG, "stream": stream, "seed": seed})) for seed in range(2)]
    until = time.monotonic() + 30
    while metric(server, "rows") == 0 and time.monotonic() < until:
        time.sleep(0.01)
    for connection in connections:
        connection.close()
    while metric(server, "open_requests") and time.monotonic() < until:
        time.sleep(0.02)
    assert metric(server, "open_requests") == metric(server, "rows") == metric(server, "waiting") == 0
    question = questions("a")[0]
    assert chat(client, "a", question).choices[0].message.content == expected("a", question)


def test_nonsense_harms_nobody(server, client):
    rng = random.Random(5)
    question = questions("a")[0]
    said = expected("a", question)
    values = [None, True, -1, 0, 1e308, "", "a", "a+b", "x" * 3000, [], [[]], {}, [None], ["a"], {"role": "user"}, "\ud800",
              2**80, [{"role": "user", "content": "who ?"}], "\0", [1, 2, 3], "🙂" * 50]  # fmt: skip
    fields = ("model messages prompt n temperature top_p seed stop stream max_tokens logprobs top_logprobs echo tools user "
              "stream_options nonsense").split()  # fmt: skip

    def spoilt(at: int) -> tuple[int, dict]:
        local = random.Random(at)
        body = {"model": "a", "messages": [{"role": "user", "content": "who ?"}], "max_tokens": 3}
        if at % 2:
            body = {"model": "b", "prompt": "who", "max_tokens": 3}
        for name in local.sample(fields, local.randrange(1, 4)):
            body[name] = local.choice(values)
        path = "/v1/completions" if at % 2 else "/v1/chat/completions"
        return server.ask(path, json.dumps(body).encode())[0], body

    with ThreadPoolExecutor(8) as threads:
        good = [threads.submit(chat, client, "a", question) for _ in range(8)]
        ended = list(threads.map(spoilt, range(300)))
    assert {status for status, _ in ended} <= {200, 400, 404}, [pair for pair in ended if pair[0] >= 500][:3]
    assert sum(status == 200 for status, _ in ended) > 10 and sum(status == 400 for status, _ in ended) > 100
    assert all(one.result().choices[0].message.content == said for one in good)
    for data in (
        b"\x16\x03\x01" + rng.randbytes(200),
        b"GET / HTTP/9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n",
    ):
        raw(server, data).close()
    assert chat(client, "a", question).choices[0].message.content == said
    assert server.process.poll() is None and server.ask("/health")[0] == 200


def test_more_than_it_takes_is_told_to_come_again(folder):
    with serving(folder, "--max_requests", "2", "--max_rows", "4") as small:
        held = [raw(small, post({**LONG, "stream": True, "seed": seed})) for seed in range(2)]
        until = time.monotonic() + 30
        while metric(small, "open_requests") < 2 and time.monotonic() < until:
            time.sleep(0.01)
        status, answer = small.ask(
            "/v1/chat/completions", {"model": "a", "messages": [{"role": "user", "content": "x"}]}
        )
        assert (status, answer["error"]["code"]) == (429, "too_many_requests")
        for connection in held:
            connection.close()
        while metric(small, "open_requests") and time.monotonic() < until:
            time.sleep(0.01)
        assert small.ask("/v1/completions", {"model": "a", "prompt": "who", "max_tokens": 1})[0] == 200
        crowd = [raw(small, b"") for _ in range(2 + 256)]
        status, answer = small.ask("/health")
        assert (status, answer["error"]["code"]) == (503, "too_many_connections")
        for connection in crowd:
            connection.close()
        while (status := small.ask("/health")[0]) != 200 and time.monotonic() < until:
            time.sleep(0.01)
        assert status == 200


def test_sigterm_lets_open_requests_end_and_ctrl_c_ends_them(folder):
    body = {**LONG, "n": 1, "stream": True, "seed": 1, "max_tokens": 300}
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with serving(folder, "--api_key", "s3cret") as running:
            assert running.ask("/v1/models")[0] == running.ask("/metrics")[0] == 401
            assert running.ask("/v1/models", headers={"Authorization": "Bearer s3crex"})[0] == 401
            assert running.ask("/v1/models", headers={"Authorization": "Bearer s3cret"})[0] == 200
            assert running.ask("/health")[0] == 200
            data = post(body).replace(b"Host: localhost", b"Host: localhost\r\nAuthorization: Bearer s3cret")
            connection = raw(running, data)
            began = connection.recv(2000)
            assert b"200 OK" in began
            code, seconds, told = running.end(number)
            rest = b""
            while part := connection.recv(65536):
                rest += part
            assert code == status and "Traceback" not in told, told
            assert (b"[DONE]" in rest) is (number == signal.SIGTERM)
            assert (b"the server is stopping" in rest) is (number == signal.SIGINT)
            assert seconds < 20
