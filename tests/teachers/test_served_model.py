"""Before a server teaches, it must be found to serve the run's model."""

from __future__ import annotations

import logging

import pytest
import torch

from lit_cartridges.models import load_model
from lit_cartridges.teachers import OpenAITeacher, TeacherError
from tests.teachers.openai_server import start
from tests.teachers.server_faults import FAULTS, model_answer
from tests.teachers.test_server_faults import complete
from tests.tiny_run import END, fit, new_data, new_module, tokenizer


@pytest.fixture
def frozen(model_folder):
    return load_model(model_folder, dtype="float32")


@pytest.fixture
def server(model_folder):
    server = start(model_answer(model_folder))
    yield server
    server.stop()


@pytest.fixture
def teach(server, frozen):
    made = []

    def make(model=frozen, **settings):
        defaults = {"backoff_s": 0.01, "max_retries": 3, "timeout_s": 60.0, "model": "m"}
        teacher = OpenAITeacher(base_urls=server.url, **(defaults | settings))
        teacher.stop_token_ids = (END,)
        teacher.bind(model, tokenizer())
        made.append(teacher)
        return teacher

    yield make
    for teacher in made:
        teacher.close()


def disturbed(model, share):
    """Another model of the same architecture: noise of that share of each weight's spread."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(share * parameter.std(correction=0) * torch.randn_like(parameter))
    return model


def checks(server):
    return [body for body in server.bodies if isinstance(body["prompt"][0], list)]


def test_one_request_for_many_that_wait(server, teach, caplog):
    teacher = teach()
    with caplog.at_level(logging.INFO, logger="lit_cartridges.teachers"):
        complete(teacher, rows=8)
    assert len(checks(server)) == 1 and len(server.bodies) == 9
    assert isinstance(server.bodies[0]["prompt"][0], list), "before anything else is asked"
    (line,) = [r for r in caplog.records if "log-probabilities are the run's" in r.message]
    assert line.levelno == logging.INFO and float(line.message.split("to ")[1].split()[0]) < 1e-4
    complete(teacher)
    assert len(checks(server)) == 1


def test_another_model_is_refused_after_three_looks(server, teach, frozen):
    with pytest.raises(TeacherError, match=f"base_urls: {server.url}/v1 serves another model.*same_model"):
        complete(teach(model=disturbed(frozen, 1.0)))
    assert len(checks(server)) == len(server.bodies) == 3
    assert len(complete(teach(model=frozen, same_model=False))) == 4


def test_a_small_difference_is_warned_of(server, teach, frozen, caplog):
    complete(teach(model=disturbed(frozen, 0.1)))
    (line,) = [r for r in caplog.records if "log-probabilities are the run's" in r.message]
    assert line.levelno == logging.WARNING


def test_a_garbled_check_is_asked_again(server, teach):
    server.faults.extend([FAULTS["NaN"][0], FAULTS["no choices"][0], FAULTS["500"][0]])
    teacher = teach()
    assert len(complete(teacher, rows=1)) == 1
    assert teacher.counts == {"bad_logprobs": 1, "malformed": 1, "http_500": 1, "retries": 3}


def test_a_server_that_was_away_is_checked_again(server, teach, frozen):
    teacher = teach()
    complete(teacher)
    server.faults.append(FAULTS["cut in mid-answer"][0])
    complete(teacher)
    assert len(checks(server)) == 2


@pytest.mark.parametrize("holds_model", [True, False])
def test_a_name_that_is_not_served(server, frozen, holds_model):
    teacher = OpenAITeacher(base_urls=server.url, model="other")
    teacher.bind(frozen if holds_model else None, tokenizer())
    with pytest.raises(TeacherError, match="serves m, and not model='other'"):
        complete(teacher)
    assert not server.bodies
    teacher.close()


def test_a_run_refuses_a_server_of_another_model(tmp_path, model_folder, corpus, server, frozen):
    other = tmp_path / "other"
    disturbed(frozen, 1.0).save_pretrained(other)
    tokenizer().save_pretrained(other)
    teacher = OpenAITeacher(base_urls=server.url, model="m", timeout_s=60.0)
    with pytest.raises(TeacherError, match="serves another model than the run's"):
        fit(tmp_path, new_module(str(other)), new_data(corpus, teacher=teacher))
    assert not list((tmp_path / "recording").glob("*.parquet"))
