"""Served chats that a cartridge's router rejects are answered as under the model's own name, and the answer says so."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.routing import save_router
from lit_cartridges.routing.router_file import ROUTER
from lit_cartridges.serving import routing
from lit_cartridges.serving.app import App
from lit_cartridges.serving.metrics import Metrics
from lit_cartridges.serving.routing import HEADER, ShelvedRouters
from lit_cartridges.serving.service import Limits, Service
from lit_cartridges.serving.shelf import Shelf
from tests.routing.routers import pocket_router, questions
from tests.serving.shelves import SERVED, fill, of_text, pocket

OFF = questions(20, 1)[0]


@contextmanager
def asking(folder, *, router: bool = True):
    """The routes over a folder, in this process."""
    model, tokenizer = pocket()
    service = Service(
        model,
        tokenizer,
        Shelf(folder),
        name=SERVED,
        limits=Limits(max_rows=4),
        metrics=Metrics(),
        question_model=(lambda: model) if router else None,
    )
    service.engine.start()
    try:
        with TestClient(App(service).asgi) as client:
            yield client
    finally:
        service.engine.stop()
        service.engine.join(10)


@pytest.fixture
def folder(tmp_path):
    """a with its router, b without one."""
    model, tokenizer = pocket()
    folder = fill(tmp_path / "runs", a=1, b=2)
    save_router(pocket_router(model, tokenizer, of_text(1), 1), folder / "a" / "cartridge")
    return folder


@pytest.fixture(scope="module")
def on():
    model, tokenizer = pocket()
    attached = of_text(1).attach(model, tokenizer, router=pocket_router(model, tokenizer, of_text(1), 1))
    assert not attached.route(OFF).reads
    return next(text for text in questions(1) if attached.route(text).reads)


def ask(client, model, question, **more):
    known = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": 12,
    }
    return client.post("/v1/chat/completions", json=known | more)


def reply(answer):
    return answer.json()["choices"][0]["message"]["content"], answer.json()["usage"]


def test_a_question_is_answered_with_the_cartridge_or_as_the_model_alone(folder, on):
    with asking(folder) as client:
        routed, bare = ask(client, "a", OFF), ask(client, SERVED, OFF)
        assert routed.headers[HEADER].startswith("off-corpus; score=0.") and HEADER not in bare.headers
        assert reply(routed) == reply(bare)
        with_it = ask(client, "a", on)
        assert with_it.headers[HEADER].startswith("on-corpus; ")
        assert with_it.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == of_text(1).num_tokens
        forced = ask(client, "a", OFF, router="off")
        assert HEADER not in forced.headers and reply(forced) != reply(bare)
        streamed = ask(client, "a", OFF, stream=True)
        assert streamed.headers[HEADER] == routed.headers[HEADER]
        told = client.get("/metrics").text
        assert 'lit_cartridges_routed_total{read="none"} 2.0' in told
        assert 'lit_cartridges_routed_total{read="cartridge"} 1.0' in told
        assert [
            one.get("cartridge", {}).get("router") for one in client.get("/v1/models").json()["data"]
        ] == [
            None,
            True,
            False,
        ]
    with asking(folder, router=False) as client:
        off = ask(client, "a", OFF)
        assert HEADER not in off.headers and reply(off) == reply(forced)


def test_without_a_router_of_each_part_a_composition_is_read(folder):
    with asking(folder) as client:
        assert HEADER not in ask(client, "a+b", OFF).headers and HEADER not in ask(client, "b", OFF).headers
        model, tokenizer = pocket()
        save_router(pocket_router(model, tokenizer, of_text(2), 2), folder / "b")
        assert HEADER in ask(client, "a+b", OFF).headers  # at once, as cartridges are
        text = {"model": "a", "prompt": OFF, "max_tokens": 4}
        assert (
            HEADER not in client.post("/v1/completions", json=text).headers
        )  # no question, but a text to go on with


def test_routers_that_were_asked_last_are_kept(folder, monkeypatch):
    model, tokenizer = pocket()
    save_router(pocket_router(model, tokenizer, of_text(2), 2), folder / "b")
    monkeypatch.setattr(routing, "_MOST_BYTES", 1)
    routers = ShelvedRouters(Shelf(folder), lambda: model, ChatRenderer(tokenizer))
    for name in ("a", "b", "b", "a"):
        [router] = routers.of([name])
        assert [kept for _, kept in routers._known.values()] == [router]


def test_a_router_that_is_damaged_or_anothers_is_refused_and_can_be_left_out(folder):
    file = folder / "a" / "cartridge" / ROUTER
    shutil.copy(file, folder / "b" / ROUTER)
    with asking(folder) as client:
        foreign = ask(client, "b", OFF)
        assert foreign.status_code == 400 and foreign.json()["error"]["code"] == "bad_router"
        assert "of another cartridge" in foreign.json()["error"]["message"]
        assert str(folder) not in foreign.json()["error"]["message"]
        file.write_bytes(file.read_bytes()[:-1])
        assert ask(client, "a", OFF).json()["error"]["code"] == "bad_router"
        assert ask(client, "a", OFF, router="off").status_code == 200
        assert ask(client, "a", OFF, router="no").json()["error"]["param"] == "router"
