"""What is read behind a cartridge is token for token what training read there."""

from __future__ import annotations

import numpy as np
import pytest

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.serving.asked import chat_asked, completion_asked
from lit_cartridges.serving.prompts import Prompts
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.text import text_ids
from tests.chat_tokenizers import byte_tokenizer
from tests.tiny_run import END
from tests.tiny_run import tokenizer as tiny_tokenizer


def asked(*messages: tuple[str, str]):
    body = {"model": "a", "messages": [{"role": role, "content": text} for role, text in messages]}
    return chat_asked(body, max_rows=1, vocabulary=97)


def text(prompt):
    return completion_asked({"model": "a", "prompt": prompt}, max_rows=1, vocabulary=97)


DIALOGUE = ("user", "w1 w2"), ("assistant", "w3 w4"), ("user", "w5")


def tokenizers():
    return [tiny_tokenizer(), *map(byte_tokenizer, ("llama", "chatml", "gemma", "gemma_folded"))]


@pytest.mark.parametrize("tokenizer", tokenizers(), ids=["words", "llama", "chatml", "gemma", "gemma_folded"])
def test_a_chat_is_what_a_student_reads(tokenizer):
    renderer = ChatRenderer(tokenizer)
    end = min(renderer.stop_token_ids()) if tokenizer is not tiny_tokenizer() else END
    answers = [np.asarray([*renderer.answer_ids(said), end], dtype=np.int32) for said in ("w3 w4", "w6")]
    trained = [
        user("w1 w2"),
        Message("assistant", "w3 w4", answers[0]),
        user("w5"),
        Message("assistant", "w6", answers[1]),
    ]
    ids, spans = renderer.conversation_ids(trained)
    prompts = Prompts(tokenizer)
    assert prompts.ids(asked(*DIALOGUE[:1]), behind=True) == ids[: spans[0].start].tolist()
    served = prompts.ids(asked(*DIALOGUE), behind=True)
    # An answer comes back as text, and so without the end token that the next turn then brings with it.
    assert served == renderer.prompt_ids(
        [user("w1 w2"), Message("assistant", "w3 w4", answers[0][:-1]), user("w5")]
    )
    if end == renderer._end_of_turn:
        assert served == ids[: spans[1].start].tolist()


def test_without_a_cartridge_a_chat_begins_and_may_have_a_system_message():
    tokenizer = byte_tokenizer("chatml")
    prompts = Prompts(tokenizer)
    for messages in (DIALOGUE, (("system", "w9"), *DIALOGUE)):
        whole = [{"role": role, "content": said} for role, said in messages]
        if messages is DIALOGUE:
            rendered = tokenizer.apply_chat_template(
                whole[:1], add_generation_prompt=True, enable_thinking=False, return_dict=False
            )
            assert prompts.ids(asked(*messages[:1]), behind=False) == rendered
        else:
            rendered = tokenizer.apply_chat_template(
                whole[:2], add_generation_prompt=True, enable_thinking=False, return_dict=False
            )
            assert prompts.ids(asked(*messages[:2]), behind=False) == rendered


@pytest.mark.parametrize(
    ("messages", "behind"),
    [
        ((("system", "w9"), ("user", "w1")), True),
        ((("user", "w1"), ("user", "w2")), True),
        ((("user", "w1"), ("assistant", "w2")), False),
        ((("assistant", "w1"),), True),
        ((("user", "w1"), ("system", "w2")), False),
        ((("system", "w1"),), False),
    ],
)
def test_a_chat_of_another_form_is_refused(messages, behind):
    with pytest.raises(Refusal) as told:
        Prompts(tiny_tokenizer()).ids(asked(*messages), behind=behind)
    assert told.value.status == 400 and told.value.param == "messages"


def test_a_special_tokens_name_in_a_text_stays_text():
    tokenizer = byte_tokenizer("chatml")
    prompts, name = Prompts(tokenizer), "<|im_end|>"
    token = tokenizer.convert_tokens_to_ids(name)
    for behind in (True, False):
        assert token not in prompts.ids(text(f"a {name} b"), behind=behind)
        own = prompts.ids(asked(("user", "a")), behind=behind).count(token)  # the template's
        assert prompts.ids(asked(("user", name)), behind=behind).count(token) == own > 0
    assert prompts.ids(text([5, 6]), behind=True) == [5, 6]


def test_a_text_without_a_cartridge_begins_as_the_tokenizer_begins_texts():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer("llama")
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    prompts = Prompts(tokenizer)
    assert prompts.ids(text("ab"), behind=False) == [tokenizer.bos_token_id, *text_ids(tokenizer, "ab")]
    assert prompts.ids(text("ab"), behind=True) == text_ids(tokenizer, "ab")
    assert Prompts(byte_tokenizer("llama")).ids(text("ab"), behind=False) == text_ids(tokenizer, "ab")
