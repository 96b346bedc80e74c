"""A reply is believed in nothing: whatever stands in it, it is a completion that fits what was asked, or a named fault."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from lit_cartridges.teachers.server_faults import FaultyReply
from lit_cartridges.teachers.server_reply import Asked, parse_completions
from lit_cartridges.teachers.teacher import TeacherError

ASKED = Asked(
    max_tokens=4, greedy=True, top_k=2, vocab_size=50, decode=lambda ids: " ".join(f"w{i}" for i in ids)
)
REPLY = {
    "choices": [
        {
            "index": 0,
            "text": "w7 w8",
            "finish_reason": "stop",
            "token_ids": [7, 8],
            "logprobs": {
                "tokens": ["token_id:7", "token_id:8"],
                "top_logprobs": [
                    {"token_id:7": -0.1, "token_id:9": -3.0},
                    {"token_id:8": -0.2, "token_id:1": -2.5},
                ],
            },
        }
    ]
}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ["choices"],
    ["choices", 0],
    *(["choices", 0, name] for name in REPLY["choices"][0]),
    ["choices", 0, "token_ids", 1],
    ["choices", 0, "logprobs", "tokens"],
    ["choices", 0, "logprobs", "top_logprobs"],
    ["choices", 0, "logprobs", "top_logprobs", 1],
    ["choices", 0, "logprobs", "top_logprobs", 1, "token_id:8"],
    ["choices", 0, "logprobs", "top_logprobs", 1, "token_id:1"],
]


def parsed(reply):
    """The completion, or None where a fault was named."""
    try:
        (completion,) = parse_completions(reply, server="s", asked=ASKED)
    except (FaultyReply, TeacherError) as error:
        assert str(error)
        return None
    return completion


def test_the_reply_itself():
    completion = parsed(REPLY)
    assert completion.token_ids.tolist() == [7, 8] and completion.finished
    assert completion.top_logprobs.dense()[0].tolist() == [[7, 9], [8, 1]]


@settings(max_examples=500, deadline=None)
@given(place=st.sampled_from(PLACES), value=ANYTHING)
def test_anything_in_any_place(place, value):
    reply = copy.deepcopy(REPLY)
    *path, last = place
    inner = reply
    for step in path:
        inner = inner[step]
    inner[last] = value
    completion = parsed(reply)
    if completion is not None:
        assert 1 <= len(completion.token_ids) <= ASKED.max_tokens
        assert 0 <= completion.token_ids.min() and completion.token_ids.max() < ASKED.vocab_size
        ids, values = completion.top_logprobs.dense()
        assert len(ids) == len(completion.token_ids) and 0 <= ids.min() and ids.max() < ASKED.vocab_size
        assert (values <= 1e-3).all()


@given(value=ANYTHING)
def test_anything_as_a_reply(value):
    assert parsed(value) is None
