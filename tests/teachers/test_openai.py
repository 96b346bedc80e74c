"""OpenAITeacher against a real HTTP server on this machine, which speaks vLLM's dialect and has faults on demand."""

from __future__ import annotations

import math
import pickle
import time
from email.utils import formatdate

import numpy as np
import pytest

from lit_cartridges.errors import SettingError
from lit_cartridges.teachers import OpenAITeacher, Request, Sampling, TeacherError
from tests.teachers.openai_server import END, logprobs_after, start


@pytest.fixture
def server():
    server = start()
    yield server
    server.stop()


@pytest.fixture
def teach():
    made = []

    def make(*servers, **settings):
        urls = [s if isinstance(s, str) else s.url for s in servers]
        teacher = OpenAITeacher(
            base_urls=urls, model="m", **{"backoff_s": 0.01, "max_retries": 3, **settings}
        )
        teacher.stop_token_ids = (END,)
        made.append(teacher)
        return teacher

    yield make
    for teacher in made:
        teacher.close()


def complete(teacher, rows=3, top_k=4, **settings):
    return teacher.complete(
        **{
            "context_ids": [5, 6, 7],
            "prompts": [[i, i + 1] for i in range(rows)],
            "sampling": Sampling(0.0, 30),
            "seeds": list(range(rows)),
            "top_k": top_k,
            **settings,
        }
    )


def test_ids_and_log_probabilities_are_the_server_s(server, teach):
    completions = complete(teach(server), rows=8)
    assert any(c.finished for c in completions) and {b["model"] for b in server.bodies} == {"m"}
    for number, completion in enumerate(completions):
        read = [5, 6, 7, number, number + 1]
        ids, values = completion.top_logprobs.dense(4)
        assert completion.finished == (completion.token_ids[-1] == END)
        assert completion.token_ids.dtype == np.int32
        for row, token in enumerate(completion.token_ids):
            expected = logprobs_after(read)
            order = np.argsort(-expected)[:4]
            kept = np.isfinite(values[row])
            mass = np.exp(expected[order]).cumsum()
            assert ids[row][kept].tolist() == order[: kept.sum()].tolist()
            assert np.allclose(values[row][kept], expected[order][: kept.sum()], atol=1e-5)
            assert kept.sum() == min(4, int((mass < 0.99).sum()) + 1)
            read.append(int(token))
    body = server.bodies[0]
    assert body["logprobs"] == 4 and body["stop_token_ids"] == [END]
    assert body["return_token_ids"] and body["return_tokens_as_token_ids"]


def test_sampled_tokens_outside_the_top_k_do_not_add_an_entry(server, teach):
    for completion in complete(teach(server), sampling=Sampling(3.0, 30), top_k=2, min_mass=1.0):
        assert np.bincount(completion.top_logprobs.token_idx).max() == 2
        assert completion.top_logprobs.shape == (len(completion.token_ids), 2)


def test_seeds_decide_and_no_log_probabilities_without_top_k(server, teach):
    teacher, hot = teach(server), Sampling(1.0, 30)
    first, again = (complete(teacher, top_k=0, sampling=hot) for _ in range(2))
    other = complete(teacher, top_k=0, sampling=hot, seeds=[7, 8, 9])
    assert [c.token_ids.tolist() for c in first] == [c.token_ids.tolist() for c in again]
    assert [c.token_ids.tolist() for c in first] != [c.token_ids.tolist() for c in other]
    assert {c.top_logprobs for c in first} == {None}


def test_a_server_with_token_ids_in_the_log_probabilities_only(server, teach):
    def older(reply):
        del reply["choices"][0]["token_ids"]
        return reply

    expected = [c.token_ids.tolist() for c in complete(teach(server))]
    server.alter = older
    assert [c.token_ids.tolist() for c in complete(teach(server))] == expected
    assert [c.token_ids.tolist() for c in complete(teach(server), top_k=0)] == expected


@pytest.mark.parametrize(
    "fault",
    [
        "cut",
        "no json",
        (500, {}),
        (503, {}),
        (429, {}),
        (429, {"Retry-After": "0"}),
        lambda r: {"choices": []},
    ],
)
def test_passing_faults(server, teach, fault):
    expected = [c.token_ids.tolist() for c in complete(teach(server))]
    server.faults.extend([fault, fault])
    assert [c.token_ids.tolist() for c in complete(teach(server))] == expected
    assert len(server.bodies) == 3 + 5


@pytest.mark.parametrize("header", ["0.4", "date"])
def test_retry_after(server, teach, header):
    value = formatdate(time.time() + 1.5, usegmt=True) if header == "date" else header
    server.faults.append((429, {"Retry-After": value}))
    complete(teach(server, backoff_s=0.0), rows=1)
    assert 0.3 < server.times[1] - server.times[0] < 2.0


def test_back_off_doubles(server, teach):
    server.faults.extend([(500, {})] * 3)
    complete(teach(server, backoff_s=0.1), rows=1)
    waits = np.diff(server.times)
    for wait, expected in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert 0.5 * expected <= wait < 1.5 * expected + 0.15


def test_lasting_faults_name_the_server_and_the_setting(server, teach):
    server.faults.extend([(500, {})] * 4)
    with pytest.raises(TeacherError, match=rf"{server.url}/v1 after max_retries=3.*HTTP 500"):
        complete(teach(server), rows=1)


def test_a_refused_request_is_not_sent_again(server, teach):
    server.faults.append((400, {}))
    with pytest.raises(TeacherError, match="HTTP 400.*max_logprobs.*model='m'"):
        complete(teach(server), rows=1)
    assert len(server.bodies) == 1


def without_ids(reply):
    choice = reply["choices"][0]
    del choice["token_ids"]
    choice["logprobs"]["tokens"] = ["some", "words"]
    return reply


def texts_for_ids(reply):
    choice = reply["choices"][0]
    choice["logprobs"]["top_logprobs"] = [{"word": -0.1} for _ in choice["token_ids"]]
    return reply


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (without_ids, r"gives no token ids.*choices\[0\].token_ids"),
        (texts_for_ids, "names tokens by their text"),
    ],
)
def test_a_server_without_token_ids(server, teach, alter, message):
    server.alter = alter
    with pytest.raises(TeacherError, match=rf"base_urls: the server {server.url}/v1 .*{message}|{message}"):
        complete(teach(server), rows=1)
    assert len(server.bodies) == 1, "asking again is of no use"


def spoil(value):
    def alter(reply):
        rows = reply["choices"][0]["logprobs"]["top_logprobs"]
        rows[-1] = dict.fromkeys(rows[-1], value) if value != "row" else None
        return reply

    return alter


def no_logprobs(reply):
    reply["choices"][0]["logprobs"] = None
    return reply


@pytest.mark.parametrize("alter", [spoil(math.nan), spoil(None), spoil("row"), no_logprobs])
def test_faulty_log_probabilities_are_asked_for_again_and_then_refused(server, teach, alter):
    server.faults.append(alter)
    assert len(complete(teach(server), rows=1)) == 1 and len(server.bodies) == 2
    server.alter = alter
    with pytest.raises(TeacherError, match="top_logprobs"):
        complete(teach(server), rows=1)
    assert len(server.bodies) == 2 + 4


def test_the_whole_distribution_is_sampled_from(server, teach):
    """Left out, vLLM would take what the model's generation_config.json proposes."""
    complete(teach(server), rows=1, sampling=Sampling(0.7, 5))
    (body,) = server.bodies
    sampled = {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    assert sampled == {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


def test_talks_are_held_at_the_same_time_and_give_what_they_give_alone(server, teach):
    def talk(number):
        options = {"context_ids": [number], "seeds": [number, 8], "top_k": 2}
        asked = yield Request(prompts=[[1], [2, number]], sampling=Sampling(1.0, 6), **options)
        prompts = [completion.token_ids.tolist() for completion in asked]
        answered = yield Request(prompts=prompts, sampling=Sampling(0.0, 9), **options)
        return [completion.token_ids.tolist() for completion in answered]

    alone = [next(teach(server).converse([talk(number)])) for number in range(6)]
    server.most, server.delay_s = 0, 0.05
    assert list(teach(server, max_requests_in_flight=8).converse(map(talk, range(6)))) == alone
    assert server.most >= 6


def test_a_talk_that_fails_leaves_those_before_it(server, teach):
    def talk(number):
        if number == 2:
            raise TeacherError("number 2")
        return (yield Request(context_ids=[], prompts=[[number]], sampling=Sampling(0.0, 3), seeds=[0]))

    results = teach(server).converse(map(talk, range(9)))
    assert [len(next(results)) for _ in range(2)] == [1, 1]
    with pytest.raises(TeacherError, match="number 2"):
        next(results)


def test_requests_in_flight_are_bounded(server, teach):
    server.delay_s = 0.05
    complete(teach(server, max_requests_in_flight=3), rows=12)
    assert server.most == 3


def test_several_servers_share_the_work_and_a_dead_one_is_left_out(server, teach):
    other = start()
    try:
        server.delay_s = other.delay_s = 0.02
        complete(teach(server, other, max_requests_in_flight=6), rows=12)
        assert abs(len(server.bodies) - len(other.bodies)) <= 4
    finally:
        other.stop()
    teacher = teach(other, server, max_requests_in_flight=1)
    assert len(complete(teacher, rows=6)) == 6
    assert [len(c.token_ids) > 0 for c in complete(teach("http://127.0.0.1:9", server), rows=4)] == [True] * 4


def test_a_failing_server_does_not_draw_all_requests(server, teach):
    failing = start()
    try:
        failing.faults.extend([(500, {})] * 100)
        teacher = teach(failing, server, max_requests_in_flight=2, server_down_s=60.0)
        for _ in range(3):
            assert len(complete(teacher, rows=5)) == 5
        assert len(failing.bodies) <= 2
    finally:
        failing.stop()


def test_no_server_at_all(teach):
    with pytest.raises(TeacherError, match="127.0.0.1:9/v1 after max_retries=1.*Connect"):
        complete(teach("http://127.0.0.1:9", max_retries=1))


def test_key_address_and_reuse(server, teach, monkeypatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    teacher = teach(server.url + "/v1/", api_key_env="SOME_KEY")
    complete(teacher, rows=1)
    monkeypatch.setenv("SOME_KEY", "secret")
    complete(teacher, rows=1)
    assert server.headers == [("/v1/completions", None), ("/v1/completions", "Bearer secret")]
    teacher.close()
    assert len(complete(teacher)) == 3, "usable again after close"
    assert len(complete(pickle.loads(pickle.dumps(teacher)))) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_urls": []}, "base_urls="),
        ({"base_urls": "localhost:8000"}, "base_urls='localhost:8000'"),
        ({"max_requests_in_flight": 0}, "max_requests_in_flight=0"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"max_retries": -1}, "max_retries=-1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TeacherError, SettingError), match=message):
        OpenAITeacher(**{"base_urls": "http://x", "model": "m", **settings})


def test_top_k_larger_than_the_vocabulary():
    teacher = OpenAITeacher(base_urls="http://x", model="m")
    teacher.validate(50, 50)
    for top_k in (51, -1):
        with pytest.raises(TeacherError, match=f"top_k={top_k} must lie in 0..50.*set top_k to 20"):
            teacher.validate(50, top_k)
