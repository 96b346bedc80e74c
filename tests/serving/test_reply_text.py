"""A reply in pieces: together they are the whole, none is half a character, and nothing of a stop text gets out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.serving.reply_text import ReplyText
from tests.chat_tokenizers import SPECIALS, byte_tokenizer

THINKS = byte_tokenizer("chatml")
THINKS.add_tokens(["<think>", "</think>"])


def metaspace() -> PreTrainedTokenizerFast:
    """In the manner of SentencePiece: blanks stand in front of words, and none in front of the first."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", *bytes_], show_progress=False)
    core.train_from_iterator(["the cat sat on the mat", "a bird in the hand is worth"], trainer)
    known = json.loads(core.to_str())
    known["added_tokens"] = known["added_tokens"][:1]  # bytes are tokens like others
    core = Tokenizer.from_str(json.dumps(known))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", clean_up_tokenization_spaces=False
    )


TOKENIZERS = {"bytes": byte_tokenizer("chatml"), "metaspace": metaspace(), "thinks": THINKS}
TEXT = st.text(st.sampled_from("abc  \n.#é日🙂‍👩🏽the cat"), max_size=40)


def plain(tokenizer, stops=()) -> ReplyText:
    def whole(ids):
        return tokenizer.decode(list(ids), skip_special_tokens=True)

    return ReplyText(tokenizer, whole=whole, stops=stops, chat=False, control={})


def chat(tokenizer, stops=()) -> ReplyText:
    renderer = ChatRenderer(tokenizer)
    control = renderer.encoder.control

    def whole(ids):
        return renderer.text(np.asarray(ids))

    return ReplyText(tokenizer, whole=whole, stops=stops, chat=True, control=control)


def pieces(reply: ReplyText, ids) -> list[str]:
    out = [reply.add(i) for i in ids]
    rest = reply.end()
    assert rest is not None
    return [*out, rest]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_the_pieces_are_the_whole_and_no_half_characters(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for kind in (plain, chat):
        reply = kind(tokenizer)
        out = pieces(reply, ids)
        assert "".join(out) == reply.final == (reply.whole(ids) if ids else "")
        if "�" not in reply.final:
            assert not any("�" in piece for piece in out)


@pytest.mark.parametrize("kind", [plain, chat])
@settings(max_examples=100, deadline=None)
@given(text=TEXT, stops=st.lists(st.text("ab #\n🙂", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_of_a_stop_text_gets_out_and_nothing_before_it_is_lost(kind, text, stops):
    tokenizer = TOKENIZERS["bytes"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    reply = kind(tokenizer, stops)
    out = "".join(pieces(reply, ids))
    said = text.lstrip() if kind is chat else text
    if reply.stopped:  # where the first of them was whole
        head = said[: min(said.find(stop) + len(stop) for stop in stops if stop in said)]
        said = head[: min(head.find(stop) for stop in stops if stop in head)]
        assert out == reply.final
    assert out == (said.strip() if kind is chat else said)
    assert not any(stop in out for stop in stops)


def test_tokens_behind_a_stop_text_are_not_looked_at():
    reply = plain(TOKENIZERS["bytes"], ["##"])
    ids = TOKENIZERS["bytes"]("a#b##c", add_special_tokens=False)["input_ids"]
    assert [reply.add(i) for i in ids] == ["a", "", "#b", "", "", ""] and reply.stopped and reply.end() == ""


def test_a_thought_is_held_back_and_one_in_the_middle_is_told():
    def ids(text):
        return THINKS(text, add_special_tokens=False)["input_ids"]

    reply = chat(THINKS)
    assert "".join(pieces(reply, ids("<think>\n\nhm\n</think>\n\nYes."))) == "Yes."
    reply = chat(THINKS)
    assert pieces(reply, ids("<think>never ends"))[-1] == reply.final
    reply = chat(THINKS)
    for token_id in ids("No. </think> Yes."):
        reply.add(token_id)
    assert reply.final == "Yes." and reply.end() is None


def test_special_tokens_are_no_text():
    tokenizer = TOKENIZERS["bytes"]
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(SPECIALS[1])
    assert pieces(plain(tokenizer), [*ids, end]) == ["a", "", ""]
