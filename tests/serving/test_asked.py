"""Bodies of requests: what is served is taken as it is meant, and everything else refused with the field's name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.serving.asked import chat_asked, completion_asked
from lit_cartridges.serving.choice import ScoreChanges
from lit_cartridges.serving.refusals import Refusal

CHAT = {"model": "a", "messages": [{"role": "user", "content": "w1"}]}
TEXT = {"model": "a", "prompt": "w1"}


def chat(**more):
    return chat_asked({**CHAT, **more}, max_rows=8, vocabulary=50)


def text(**more):
    return completion_asked({**TEXT, **more}, max_rows=8, vocabulary=50)


def test_what_is_not_said_is_as_openai_has_it():
    asked = chat()
    assert (asked.n, asked.temperature, asked.top_p, asked.seed, asked.stops) == (1, 1.0, 1.0, None, ())
    assert (asked.max_new_tokens, asked.logprobs, asked.stream) == (None, None, False)
    assert text().max_new_tokens == 16 and text().logprobs is None
    assert chat(n=None, stop=None, tools=None, logit_bias=None) == asked


def test_what_is_said_is_taken():
    asked = chat(
        n=3,
        temperature=0,
        top_p=0.5,
        seed=-1,
        stop=["x", "y", "x"],
        max_completion_tokens=7,
        logprobs=True,
        top_logprobs=2,
    )
    assert (asked.n, asked.temperature, asked.top_p, asked.seed, asked.stops) == (3, 0.0, 0.5, -1, ("x", "y"))
    assert asked.max_new_tokens == 7 and asked.logprobs == 2 and chat(logprobs=True).logprobs == 0
    assert chat(temperature=1e-300).temperature == 0.0 and chat(temperature=1e-3).temperature == 1e-3
    assert text(prompt=[1, 2], logprobs=0).prompt == [1, 2] and text(prompt=["w2"]).prompt == "w2"
    given = chat(presence_penalty=1, frequency_penalty=-0.5, logit_bias={"49": -100, "3": 0.5}).changes
    assert given == ScoreChanges(presence=1.0, frequency=-0.5, added={49: -100.0, 3: 0.5})
    parts = [{"type": "text", "text": "w1 "}, {"type": "text", "text": "w2"}]
    assert chat(messages=[{"role": "developer", "content": parts}]).messages == [
        {"role": "system", "content": "w1 w2"}
    ]


def test_a_clients_own_answer_may_be_sent_back():
    answer = {"role": "assistant", "content": "w2", "refusal": None, "tool_calls": None, "annotations": []}
    assert chat(messages=[*CHAT["messages"], answer]).messages[1] == {"role": "assistant", "content": "w2"}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "w1"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
        ),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages[0]"),
        ({"n": 9}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        # What would be computed otherwise than it is asked for.
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"echo": True}, "echo"),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, "kv_transfer_params"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"logit_bias": {"50": -100}}, "logit_bias"),
        ({"logit_bias": {"-1": -100}}, "logit_bias"),
        ({"logit_bias": {"5": -101}}, "logit_bias"),
        ({"logit_bias": {"5": None}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "logit_bias"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"top_k": 5}, "top_k"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"frequency_penalty": False}, "frequency_penalty"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs"),
        ({"temprature": 0}, "temprature"),
    ],
)
def test_everything_else_is_refused_by_its_name(more, param):
    with pytest.raises(Refusal) as told:
        chat(**more)
    assert told.value.status == 400 and told.value.param == param and param in told.value.message


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": value}
        for value in ("", [], [50], [-1], [True], [1.0], ["a", "b"], [[1], [2]], [[]], {}, [None])
    ]
    + [{"best_of": 2}, {"suffix": "x"}, {"logprobs": True}, {"messages": []}, {"echo": True}],
)
def test_of_texts_too(more):
    with pytest.raises(Refusal) as told:
        text(**more)
    assert told.value.param == next(iter(more))


def test_what_asks_for_what_is_done_anyway_is_taken():
    assert (
        chat(user="u", presence_penalty=0, top_k=-1, tools=[], echo=False, response_format={"type": "text"})
        == chat()
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(
    "model messages prompt n temperature top_p seed stop stream stream_options max_tokens max_completion_tokens logprobs "
    "top_logprobs best_of echo tools logit_bias presence_penalty response_format user".split()
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)


@settings(max_examples=400, deadline=None)
@given(body=JSON | BODIES | BODIES.map(lambda more: CHAT | more) | BODIES.map(lambda more: TEXT | more))
def test_any_body_is_taken_or_refused(body):
    for ask in (
        lambda: chat_asked(body, max_rows=8, vocabulary=50),
        lambda: completion_asked(body, max_rows=8, vocabulary=50),
    ):
        try:
            ask()
        except Refusal as refusal:
            assert refusal.status == 400 and json.dumps(refusal.body)
