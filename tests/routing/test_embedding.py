"""A question's vector is the mean over its own tokens, and nothing else of the batch is in it."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.routing import RouterError
from lit_cartridges.routing.embedding import QuestionEmbedder
from lit_cartridges.routing.question_span import QuestionSpan
from tests.tiny_run import tokenizer as tiny_tokenizer

QUESTIONS = ["w1 w2 w3", "w4", "w5 w6 w7", "w8 w9 w10 w11 w12", "w13 w14", "w4"]


def of_transformers(model, ids, span, layer):
    """By transformers alone, one row."""
    states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0, span]
    return torch.nn.functional.normalize(states.mean(dim=0), dim=0)


def test_it_is_the_models_own_hidden_states_whatever_stands_in_the_batch(model):
    embedder = QuestionEmbedder(model, ChatRenderer(tiny_tokenizer()))
    together = embedder.embed_questions(QUESTIONS, 1)
    assert torch.equal(together[1], together[5])
    for text, vector in zip(QUESTIONS, together, strict=True):
        ids = embedder.renderer.bare_prompt_ids([user(text)])
        own = slice(2, 2 + len(text.split()))  # behind <bos> <user>
        assert embedder.span.of(ids) == own
        torch.testing.assert_close(vector, of_transformers(model, ids, own, 1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(vector, embedder.embed_questions([text], 1)[0], rtol=1e-4, atol=1e-5)


def test_of_a_longer_chat_it_is_the_last_question_behind_what_was_said(llama):
    renderer = ChatRenderer(tiny_tokenizer())
    embedder = QuestionEmbedder(llama, renderer)
    answer = Message("assistant", "w3", np.asarray([10, 2], dtype=np.int32))
    ids = renderer.bare_prompt_ids([user("w1 w2"), answer, user("w4 w5")])
    span = embedder.span.of(ids)
    assert tiny_tokenizer().decode(ids[span]) == "w4 w5" and embedder.span.is_chat(ids)
    vector = embedder.embed([ids], 2)[0]
    torch.testing.assert_close(vector, of_transformers(llama, ids, span, 2), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vector, embedder.embed_questions(["w4 w5"], 2)[0], atol=1e-3)


def test_the_span_is_the_question_in_every_template(tokenizer):
    renderer = ChatRenderer(tokenizer)
    span = QuestionSpan(renderer)
    for text in ("who signs for the tenant", "why"):
        answer = Message("assistant", "he does", np.asarray(renderer.answer_ids("he does"), dtype=np.int32))
        for messages in ([user(text)], [user("and who"), answer, user(text)]):
            ids = renderer.bare_prompt_ids(messages)
            assert span.is_chat(ids)
            found = tokenizer.decode(ids[span.of(ids)])
            assert found.strip().endswith(text) and len(found.strip()) <= len(text) + 2, found
    assert not span.is_chat(ids[1:]) and not span.is_chat(ids[:-1])


def test_vectors_that_mean_nothing_are_refused(llama):
    embedder = QuestionEmbedder(copy.deepcopy(llama), ChatRenderer(tiny_tokenizer()))
    embedder.embed_questions(["w4"], 1)
    inner = embedder.model.model
    several = SimpleNamespace(hidden_states=[torch.zeros(4, 1, 3, 32)] * 3)  # four streams of each token
    hook = inner.register_forward_hook(lambda *_: several)
    for layer in (1, 3):
        with pytest.raises(RouterError, match=f"one vector of each token after layer {layer}"):
            embedder.embed_questions(["w4"], layer)
    hook.remove()
    inner.embed_tokens.weight.data[embedder.renderer.encoder.following("w1")] = torch.inf
    with pytest.raises(RouterError, match="after layer 1 are not finite in float32; load the model in"):
        embedder.embed_questions(QUESTIONS, 1)
