"""Whatever a server does wrong, the replies are those of a healthy one, each fault is counted, and a run goes on."""

from __future__ import annotations

import csv
import logging

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from lit_cartridges.callbacks import ThroughputMonitor
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.models import load_model
from lit_cartridges.teachers import OpenAITeacher, Sampling, TeacherError
from tests.teachers.openai_server import start
from tests.teachers.server_faults import FAULTS, RandomFaults, model_answer
from tests.tiny_run import END, fit, new_data, new_module, tokenizer

ROWS = 4
TOP_K = 4


@pytest.fixture(scope="module")
def answer(model_folder):
    return model_answer(model_folder)


@pytest.fixture
def serve(answer):
    servers = []

    def make():
        servers.append(start(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def teach(model_folder):
    made = []

    def make(*servers, bound=True, **settings):
        defaults = {"backoff_s": 0.01, "max_retries": 4, "timeout_s": 60.0, "same_model": False}
        teacher = OpenAITeacher(base_urls=[s.url for s in servers], model="m", **(defaults | settings))
        teacher.stop_token_ids = (END,)
        if bound:
            teacher.bind(load_model(model_folder, dtype="float32"), tokenizer())
        made.append(teacher)
        return teacher

    yield make
    for teacher in made:
        teacher.close()


def complete(teacher, rows=ROWS, temperature=0.0, top_k=TOP_K):
    return teacher.complete(
        context_ids=[10, 11, 12],
        prompts=[[20 + i, 30 + i, 6] for i in range(rows)],
        sampling=Sampling(temperature, 8),
        seeds=list(range(rows)),
        top_k=top_k,
    )


def same(mine, theirs):
    return all(
        a.token_ids.tolist() == b.token_ids.tolist()
        and a.top_logprobs == b.top_logprobs
        and a.finished == b.finished
        for a, b in zip(mine, theirs, strict=True)
    )


@pytest.fixture
def healthy(serve, teach):
    return complete(teach(serve()))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_asked_again_and_counted(name, serve, teach, healthy):
    server, (fault, kind) = serve(), FAULTS[name]
    server.faults.extend([fault, fault])
    teacher = teach(server, timeout_s=1.5 if fault == "hang" else 60.0)
    assert same(complete(teacher), healthy)
    if fault == "hang":  # a reply that is late on a busy machine counts as well
        assert teacher.counts["time_out"] >= 2
    else:
        assert teacher.counts == {kind: 2, "retries": 2} and len(server.bodies) == ROWS + 2


def test_rows_in_any_order_are_right(serve, teach, healthy):
    server = serve()

    def upside_down(reply):
        logprobs = reply["choices"][0]["logprobs"]
        logprobs["top_logprobs"] = [dict(reversed(row.items())) for row in logprobs["top_logprobs"]]
        return reply

    server.alter = upside_down
    teacher = teach(server)
    assert same(complete(teacher), healthy) and not teacher.counts


def test_a_sampled_token_may_stand_beside_the_top_k(serve, teach):
    """At a temperature it is seldom among them; at 0 a row without it is a fault (above)."""
    completions = complete(teach(serve()), temperature=3.0)
    missing = [
        token not in completion.top_logprobs.dense()[0][row]
        for completion in completions
        for row, token in enumerate(completion.token_ids)
    ]
    assert any(missing)


REPLY_FAULTS = [name for name, (fault, _) in FAULTS.items() if callable(fault)]


@pytest.mark.parametrize("name", ["NaN", "empty reply", "another tokenizer"])
def test_one_prompt_that_is_never_answered_well_is_left_out_and_counted(name, serve, teach, healthy):
    server, (fault, kind) = serve(), FAULTS[name]
    server.next_fault = lambda body: fault if body["prompt"][3] == 21 else None
    teacher = teach(server)
    completions = complete(teacher)
    assert completions[1].token_ids.size == 0 and completions[1].top_logprobs is None
    assert same(completions[:1] + completions[2:], healthy[:1] + healthy[2:])
    assert teacher.counts == {kind: 5, "retries": 4, "refused_prompts": 1}


@pytest.mark.parametrize("name", REPLY_FAULTS)
def test_servers_that_answer_nothing_well_end_the_run(name, serve, teach):
    one, other = serve(), serve()
    one.alter = other.alter = FAULTS[name][0]
    with pytest.raises(TeacherError, match=f"base_urls: no teacher is left.*{FAULTS[name][1]}") as error:
        complete(teach(one, other, max_retries=3))
    assert one.url in str(error.value) and other.url in str(error.value)


def test_a_server_that_fails_is_no_reason_to_leave_a_prompt_out(serve, teach):
    """Its conversations would be lost for good, and a later run would get them."""
    server = serve()
    server.next_fault = lambda body: (500, {}) if body["prompt"][3] == 21 else None
    with pytest.raises(TeacherError, match="no teacher is left.*http_500"):
        complete(teach(server))


def test_another_server_is_asked_at_once(serve, teach, healthy):
    good, full = serve(), serve()
    full.next_fault = lambda body: (429, {"Retry-After": "50"})
    assert same(complete(teach(full, good)), healthy)
    assert len(full.bodies) <= 2, "a server that is full is left alone as long as it says"


def test_a_log_is_not_repeated_a_thousand_times(serve, teach, caplog):
    server = serve()
    server.faults.extend([(500, {})] * 30)
    with caplog.at_level(logging.WARNING, logger="lit_cartridges.teachers"):
        complete(teach(server, max_retries=40, backoff_s=0.0))
    lines = [record.message for record in caplog.records if "http_500" in record.message]
    assert len(lines) == 2 and server.url in lines[0] and "10 times so far" in lines[1]
    assert any("answers again" in record.message for record in caplog.records)


def test_a_run_over_faulty_servers_records_what_a_healthy_run_does(
    tmp_path, model_folder, corpus, serve, teach
):
    recordings, counts = {}, {}
    for name, share in (("healthy", 0.0), ("faulty", 0.6)):
        servers, faults = [serve(), serve()], RandomFaults(seed=1, share=share)
        for server in servers:
            server.next_fault = faults
        teacher = teach(
            *servers,
            bound=False,
            same_model=True,
            max_requests_in_flight=4,
            timeout_s=10.0,
            max_retries=100,
            backoff_s=0.0,
            server_down_s=0.01,
        )
        folder, monitor = tmp_path / name, ThroughputMonitor()
        data = new_data(corpus, teacher=teacher, groups_per_round=1)
        fit(folder, new_module(model_folder), data, monitor, logger=CSVLogger(folder), max_steps=6)
        recording = Recording(folder / "recording", tokenizer=tokenizer())
        recordings[name] = {group: recording.read_group(group) for group in recording.groups()}
        counts[name] = faults.made, teacher.counts, last_figures(folder)
    groups = sorted(recordings["healthy"].keys() & recordings["faulty"].keys())
    assert groups == list(range(len(groups))) and len(groups) >= 3  # one more may have been made ahead
    assert all(recordings["healthy"][group] == recordings["faulty"][group] for group in groups)
    indices = [c.metadata["index"] for group in groups for c in recordings["faulty"][group]]
    assert indices == sorted(set(indices)), "no conversation twice"
    assert counts["healthy"][1].keys() <= {"time_out", "retries"}, "a busy machine may be late, no more"
    made, counted, logged = counts["faulty"]
    assert len(made) > len(FAULTS) / 2, "hardly a kind was tried"
    # Requests under way when the run ends are not counted any more.
    for name, kind in (("429", "http_429"), ("500", "http_500"), ("503", "http_503")):
        times = sum(n for other, n in made.items() if FAULTS[other][1] == kind)
        assert 0 < counted[kind] <= times, name
    assert set(counted) - {"retries"} <= {kind for _, kind in FAULTS.values()}
    for kind in ("retries", "wrong_ids", "wrong_text", "malformed", "http_500"):
        assert 0 < logged[f"stream/synthesis/teacher/{kind}"] <= counted[kind]


def last_figures(folder):
    """The last logged value of every figure."""
    figures = {}
    for file in sorted(folder.rglob("metrics.csv")):
        for row in csv.DictReader(file.open()):
            figures |= {name: float(value) for name, value in row.items() if value}
    return figures


def test_a_run_ends_with_a_clear_message_when_its_last_server_dies(
    tmp_path, model_folder, corpus, serve, teach
):
    server = serve()
    asked = []

    def die_later(body):
        asked.append(body)
        return (503, {}) if len(asked) > 60 else None

    server.next_fault = die_later
    data = new_data(corpus, teacher=teach(server, bound=False, max_retries=2))
    with pytest.raises(
        TeacherError, match=f"no teacher is left.*{server.url}/v1 after max_retries=2: http_503"
    ):
        fit(tmp_path, new_module(model_folder), data, max_steps=100)
    made = Recording(tmp_path / "recording", tokenizer=tokenizer()).groups()
    assert made == list(range(len(made))) and len(made) >= 2, "what was made before is kept"


def test_random_faults_are_decided_by_seed_and_request():
    body = {"prompt": [1, 2], "seed": 3, "max_tokens": 4}
    first, again, other = (RandomFaults(seed=s, share=0.5) for s in (1, 1, 2))
    drawn = [[faults(body) for _ in range(50)] for faults in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 10 < sum(x is None for x in drawn[0]) < 40
    assert np.sum(list(first.made.values())) == 50 - sum(x is None for x in drawn[0])
