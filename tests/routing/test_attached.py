"""A question that the router rejects is answered token by token as by the plain model, any other as without a router."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.generation import left_padded
from lit_cartridges.routing import RouterError
from tests.routing.routers import made, pocket_router, questions
from tests.serving.shelves import of_text, pocket
from tests.tiny_models import tiny_model
from tests.tiny_run import tokenizer as tiny_tokenizer

GREEDY = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def both():
    """With a router, and without one."""
    model, tokenizer = pocket()
    cartridge = of_text(1)
    router = pocket_router(model, tokenizer, cartridge, 1)
    return cartridge.attach(model, tokenizer, router=router), cartridge.attach(model, tokenizer)


@pytest.fixture(scope="module")
def sides(both):
    """Questions that are read with the cartridge, and those that are not."""
    asked = [*questions(1, 12), *questions(20, 12)]
    told = {text: both[0].route(text).reads for text in asked}
    sides = [text for text in asked if told[text]][:4], [text for text in asked if not told[text]][:4]
    assert all(len(side) == 4 for side in sides)
    return sides


def bare(attached, text):
    """The prompt, and how the plain model goes on, by transformers alone."""
    ids = torch.tensor(
        [attached.renderer.bare_prompt_ids(attached.messages([{"role": "user", "content": text}]))]
    )
    stops = list(attached.renderer.stop_token_ids(attached.model.generation_config))
    out = attached.model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=stops, **GREEDY)
    return ids[0].tolist(), out


def test_chat(both, sides):
    routed, plain = both
    for text in sides[0]:
        reply = routed.chat(text, max_new_tokens=12)
        assert reply == plain.chat(text, max_new_tokens=12) and reply.route.reads
        assert reply.route.score > reply.route.threshold
    for text in sides[1]:
        reply = routed.chat(text, max_new_tokens=12)
        ids, out = bare(routed, text)
        assert reply == routed.renderer.text(out[0, len(ids) :].numpy()) and not reply.route.reads
        assert torch.equal(
            routed.reply_ids(
                routed.messages([{"role": "user", "content": text}]), max_new_tokens=12, behind=False
            ),
            out[0, len(ids) :],
        )
    assert plain.chat(sides[0][0]).route is None and plain.route(sides[0][0]) is None


def test_generate_of_whole_chats_row_by_row(both, sides):
    routed, plain = both
    ends = list(routed.renderer.stop_token_ids(routed.model.generation_config))
    for texts in (*sides, [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]):
        rows = [bare(routed, text)[0] for text in texts]
        ids, mask = left_padded(rows, 0, "cpu")
        out = routed.generate(ids, mask, eos_token_id=ends, **GREEDY)
        assert torch.equal(out[:, : ids.shape[1]], ids)
        for text, row in zip(texts, out[:, ids.shape[1] :].tolist(), strict=True):
            one = torch.tensor([bare(routed, text)[0]])
            alone = (
                plain.generate(one, eos_token_id=ends, **GREEDY)
                if text in sides[0]
                else bare(routed, text)[1]
            )
            expected = alone[0, one.shape[1] :].tolist()
            assert row[: len(expected)] == expected and not any(row[len(expected) :])
    with pytest.raises(ValueError, match="ask them in calls of their own"):
        routed.generate(ids, mask, return_dict_in_generate=True, **GREEDY)


def test_pipelines_route_as_well(both, sides):
    routed, _ = both
    chats = [[{"role": "user", "content": text}] for side in sides for text in side]
    replies = routed.pipeline()(chats, max_new_tokens=12, do_sample=False)
    for chat, reply in zip(chats, replies, strict=True):
        assert reply[0]["generated_text"][-1]["content"].strip() == routed.chat(chat, max_new_tokens=12)


def test_a_composition_is_read_whole_or_not_at_all(both, sides):
    routed, _ = both
    model, tokenizer = pocket()
    second = pocket_router(model, tokenizer, of_text(2), 2)
    composed = type(of_text(1)).compose([of_text(1), of_text(2)])
    attached = composed.attach(model, tokenizer, router=[*routed._routers, second])
    own = [attached.route(text).reads for text in questions(2, 12)]
    assert any(own) and all(attached.route(text).reads for text in sides[0])
    assert not all(attached.route(text).reads for text in questions(20, 12))
    assert composed.attach(model, tokenizer, router=[second, None]).route("who ?") is None


def test_a_router_of_another_model_is_refused():
    model, tokenizer = pocket()
    foreign = made(tiny_model("llama"), tiny_tokenizer(), ["w1", "w2"], [f"w{i}" for i in range(3, 30)])
    with pytest.raises(RouterError, match="the router was made with another model"):
        of_text(1).attach(model, tokenizer, router=foreign)
