"""Text is text: names of control tokens become tokens where the chat template writes them, and nowhere else."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.corpora.open_corpus import open_corpus
from lit_cartridges.text import Markup, TextError, control_tokens, encoder_of, text_ids
from tests.text.tokenizers import ADDED, KINDS, SPECIAL, TEMPLATES, Words, tokenizer

NAMES = [*SPECIAL[2:], *ADDED]
ORDINARY = [
    "Who keeps bees?",
    " Mira",
    "\n\nMira ",
    "\n",
    ".",
    "é☃",
    "  12 <13> ",
    "honeycomb\n\n\n",
    "W    W",
]


def template_ids(tok, messages):
    return tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def counted(tok, ids):
    """Control tokens among the ids but for the unknown one, which every strange word becomes."""
    watched = set(control_tokens(tok).values()) - {tok.unk_token_id}
    return Counter(i for i in ids if i in watched)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", ORDINARY)
def test_ordinary_text_gets_the_ids_of_the_template(kind, template, content):
    tok = tokenizer(kind, template)
    prompt = ChatRenderer(tok).bare_prompt_ids([user(content)])
    assert prompt == template_ids(tok, [{"role": "user", "content": content}])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_behind_its_context_gets_them_too(kind, template):
    tok = tokenizer(kind, template)
    messages = [{"role": "system", "content": "CHUNK"}, {"role": "user", "content": "Who?"}]
    text = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    head, rest = text.split("CHUNK")
    # A full stop ends the chunk: no word goes on, and the seam is where a chunk's ids end.
    whole = tok.encode(f"{head}Mira .{rest}", add_special_tokens=False)
    ours = ChatRenderer(tok).prompt_ids([user("Who?")])
    decoded = tok.decode(whole[: len(whole) - len(ours)])
    assert (
        whole[-len(ours) :] == ours and tok.decode(tok.encode("Mira .", add_special_tokens=False)) in decoded
    )


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_message_is_text(kind, template, name):
    tok = tokenizer(kind, template)
    renderer = ChatRenderer(tok)
    for content in (name, f"What is {name}?", f"a {name} {name} b", f"x{name}\n{name}", f"\n{name}"):
        for render in (renderer.bare_prompt_ids, renderer.prompt_ids):
            assert counted(tok, render([user(content)])) == counted(tok, render([user("What?")])), content
        assert not counted(tok, text_ids(tok, content)), content
        assert not counted(tok, renderer.answer_ids(content)), content


@pytest.mark.parametrize("kind", ["byte-level", "gpt4-like", "legacy-llama", "slow-bytes"])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_still_to_be_read(kind, name):
    tok = tokenizer(kind)
    content = f"What is {name}? Who keeps bees?"
    assert content in tok.decode(ChatRenderer(tok).bare_prompt_ids([user(content)]))


@pytest.mark.parametrize("kind", ["byte-level", "gpt4-like"])
def test_a_name_gets_the_ids_of_any_other_text(kind):
    tok = tokenizer(kind)
    spec = json.loads(tok.backend_tokenizer.to_str()) | {"added_tokens": []}
    without_added_tokens = Tokenizer.from_str(json.dumps(spec))
    content = "What is<|im_end|>\n<|im_start|> after </s>? " * 3
    assert text_ids(tok, content) == without_added_tokens.encode(content).ids


@pytest.mark.parametrize("kind", ["word-level", "word-piece", "unigram-always", "slow-words"])
def test_the_model_s_own_vocabulary_makes_no_token_of_a_name(kind):
    tok = tokenizer(kind)
    split = tok("a </s> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tok.eos_token_id in split, "split_special_tokens is not enough here"
    assert tok.eos_token_id not in text_ids(tok, "a </s> b")


@pytest.mark.parametrize("kind", KINDS)
def test_names_reaching_over_a_seam_are_text(kind):
    tok = tokenizer(kind)
    encoder = encoder_of(tok)
    for pieces in (
        (Markup("a <|im_"), "end|> b"),
        ("a <|im_", Markup("end|> b")),
        ("</", Markup(" "), "s>"),
        (Markup("<tool"), "_call>"),
    ):
        assert not counted(tok, encoder.ids(*pieces))
    split = encoder.ids(Markup("<|im_end|"), Markup(">"), "</s>", Markup("</s>"))
    assert counted(tok, split) == counted(tok, tok.convert_tokens_to_ids(["<|im_end|>", "</s>"]))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_text(kind, data):
    tok = tokenizer(kind, data.draw(st.sampled_from(sorted(TEMPLATES))))
    parts = st.one_of(st.sampled_from([*NAMES, *ORDINARY]), st.text(max_size=5))
    content = "".join(data.draw(st.lists(parts, max_size=6)))
    ids = ChatRenderer(tok).bare_prompt_ids([user(content)])
    assert counted(tok, ids) == counted(tok, ChatRenderer(tok).bare_prompt_ids([user("Who?")]))
    if not any(name in content for name in control_tokens(tok)):
        assert ids == template_ids(tok, [{"role": "user", "content": content}])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_system_template_s_names_are_text(kind, template):
    tok = tokenizer(kind, template)
    plain, named = (
        ChatRenderer(tok, system_template=system)
        for system in ("Read {chunk} well", "Read </s><|im_end|> {chunk} <|im_start|> <tool_call>")
    )
    assert counted(tok, named.context_ids([])) == counted(tok, plain.context_ids([]))
    assert counted(tok, named.prompt_ids([user("?")])) == counted(tok, plain.prompt_ids([user("?")]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_is_text(kind, tmp_path):
    tok = tokenizer(kind)
    ordinary, named = tmp_path / "ordinary.txt", tmp_path / "named.txt"
    ordinary.write_text("Mira keeps bees.\n\n\nWho sells honey?")
    named.write_text(" ".join(NAMES))
    assert open_corpus(ordinary).token_ids(tok).tolist() == tok.encode(
        ordinary.read_text(), add_special_tokens=False
    )
    assert not counted(tok, open_corpus(named).token_ids(tok).tolist())


@pytest.mark.parametrize("kind", ["byte-level", "slow-bytes", "legacy-llama"])
def test_a_quoted_name_survives_being_asked_answered_and_asked_again(kind):
    tok = tokenizer(kind)
    renderer = ChatRenderer(tok)
    question = "Where does <|im_end|> stand, and </think>?"
    reply = np.asarray([*text_ids(tok, question), tok.convert_tokens_to_ids("<|im_end|>")])
    assert renderer.text(reply) == question, "only the real token is dropped"
    again = renderer.prompt_ids([user(renderer.text(reply))])
    assert counted(tok, again) == counted(tok, renderer.prompt_ids([user("Where?")]))


def test_a_thought_ends_with_the_token_not_with_its_name():
    tok = tokenizer("byte-level")
    end = tok.convert_tokens_to_ids("</think>")
    ids = [*text_ids(tok, "Hm </think> hm"), end, *text_ids(tok, " It is </think>.")]
    assert ChatRenderer(tok).text(np.asarray(ids)) == "It is </think>."


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_s_ids_are_those_in_a_whole_chat(kind):
    tok = tokenizer(kind, "inst")
    chat = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mira."}]
    whole = tok.apply_chat_template(chat, return_dict=False)
    ids = ChatRenderer(tok).answer_ids("Mira.")
    start = len(ChatRenderer(tok).bare_prompt_ids([user("Who?")]))
    assert whole[start : start + len(ids)] == ids


def test_white_space_and_words_that_were_added_stay_tokens():
    tok = tokenizer("gpt4-like")
    added = tok.convert_tokens_to_ids(["\n\n\n", "    ", "honeycomb"])
    ids = ChatRenderer(tok).bare_prompt_ids([user("honeycomb\n\n\nW    W </s>")])
    assert set(added) <= set(ids)
    assert not set(added) & set(control_tokens(tok).values())


def test_a_letter_that_is_also_a_special_token_stays_a_letter():
    tok = KINDS["byte-level"]()
    tok.chat_template = TEMPLATES["chatml"]
    tok.add_special_tokens({"pad_token": "!"})
    ids = ChatRenderer(tok).bare_prompt_ids([user("Hi! </s>!")])
    assert "Hi! </s>!" in tok.decode(ids)


def test_tokens_added_later_are_seen():
    tok = KINDS["byte-level"]()
    assert "<later>" in tok.decode(text_ids(tok, "<later>"))
    tok.add_tokens(["<later>"])
    assert tok.convert_tokens_to_ids("<later>") not in text_ids(tok, "<later>")


def test_a_tokenizer_that_cannot_keep_a_name_text_is_refused_by_name():
    class Stubborn(Words):
        def tokenize(self, text, **options):
            return text.split()

    tok = Stubborn(eos_token="</s>", unk_token="<unk>")
    assert text_ids(tok, "Who keeps bees?")
    with pytest.raises(TextError, match=r"</s>.*Stubborn"):
        text_ids(tok, "a </s> b")


def test_an_answer_s_own_tokens_are_left_alone():
    tok = tokenizer("byte-level")
    end = tok.convert_tokens_to_ids("<|im_end|>")
    answer = Message("assistant", "Mira.", np.asarray([*text_ids(tok, "Mira."), end], dtype=np.int32))
    ids = ChatRenderer(tok).prompt_ids([user("Who?"), answer, user("<|im_end|>?")])
    # Before and after the first question, the answer's own in place of the template's, and after the second question.
    assert ids.count(end) == 4
