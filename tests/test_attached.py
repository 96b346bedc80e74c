"""A model with a cartridge attached: chat, generate and transformers' pipeline, with template, mask and positions right."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import pipeline

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Provenance
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.generation import generate
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket import model_path
from lit_cartridges.pocket.task import PocketQuestions
from tests.tiny_models import tiny_config_model

GREEDY = {"max_new_tokens": 24, "do_sample": False}


@pytest.fixture(scope="module")
def pocket():
    """The bundled model, its tokenizer, a cartridge that is the prefill of a text, the text, and questions about it."""
    model, tokenizer = load_model(str(model_path())), load_tokenizer(str(model_path()))
    task = PocketQuestions(seed=3, num_tokens=150, num_questions=20)
    text = task.corpus.text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return model, tokenizer, Cartridge(*prefill(model, ChatRenderer(tokenizer).context_ids(ids))), text, task


def chat(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def answer_behind_text(pocket, messages):
    """What the model says with the text in its system message, by transformers alone."""
    model, tokenizer, _, text, _ = pocket
    whole = [{"role": "system", "content": text}, *messages]
    ids = tokenizer.apply_chat_template(
        whole, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    reply = model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)[0, ids.shape[1] :]
    return tokenizer.decode(reply, skip_special_tokens=True).strip()


@pytest.fixture
def chats(pocket):
    first, second = pocket[-1].questions()[:2]
    return [chat(first.prompt), chat(first.prompt, first.answer, second.prompt)]


def test_questions_are_answered_as_behind_the_text(pocket):
    model, tokenizer, cartridge, _, task = pocket
    attached = cartridge.attach(model, tokenizer)
    replies = [attached.chat(question.prompt, max_new_tokens=24) for question in task.questions()]
    assert replies == [answer_behind_text(pocket, chat(question.prompt)) for question in task.questions()]
    assert sum(map(task.is_right, task.questions(), replies)) == 20


def test_a_chat_goes_on(pocket, chats):
    model, tokenizer, cartridge, *_ = pocket
    attached = cartridge.attach(model, tokenizer)
    for messages in chats:
        assert attached.chat(messages, max_new_tokens=24) == answer_behind_text(pocket, messages)


def test_prompts_are_those_of_the_training(pocket):
    model, tokenizer, cartridge, *_ = pocket
    known = Provenance(notes={"settings": {"data.system_template": "{chunk} the"}})
    trained, asked = Cartridge(*cartridge.tensors(), provenance=known), [user("who ?")]
    own = trained.attach(model, tokenizer).renderer.prompt_ids(asked)
    assert own == ChatRenderer(tokenizer, system_template="{chunk} the").prompt_ids(asked)
    plain = trained.attach(model, tokenizer, system_template="{chunk}").renderer.prompt_ids(asked)
    assert plain == ChatRenderer(tokenizer).prompt_ids(asked) != own


@pytest.mark.parametrize("batch_size", [1, 2])
def test_pipelines_answer_chats_as_chat_does(pocket, chats, batch_size):
    """transformers' own, with the tokenizer's own template, and ours."""
    model, tokenizer, cartridge, *_ = pocket
    attached = cartridge.attach(model, tokenizer)
    expected = [attached.chat(messages, max_new_tokens=24) for messages in chats]
    for made in (pipeline("text-generation", model=attached, tokenizer=tokenizer), attached.pipeline()):
        replies = made(chats, batch_size=batch_size, **GREEDY)
        assert [reply[0]["generated_text"][-1]["content"].strip() for reply in replies] == expected


def test_text_that_is_no_chat_is_continued_behind_the_cartridge(pocket):
    model, tokenizer, cartridge, *_ = pocket
    attached, prompt = cartridge.attach(model, tokenizer), "the city of"
    given = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    ids = attached.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"], **GREEDY)
    assert ids.tolist() == generate(model, cartridge, given["input_ids"], **GREEDY).tolist()


def test_a_system_message_is_refused(pocket, chats):
    model, tokenizer, cartridge, *_ = pocket
    attached = cartridge.attach(model, tokenizer)
    with_system = [{"role": "system", "content": "obey"}, *chats[0]]
    for ask in (attached.chat, attached.pipeline()):
        with pytest.raises(ValueError, match="stands in the place of the system message"):
            ask(with_system)


def test_it_is_the_model_for_all_else(pocket):
    model, tokenizer, cartridge, *_ = pocket
    attached = cartridge.attach(torch.compile(model, backend="eager"), tokenizer)
    assert isinstance(attached, type(model))
    assert attached.config is model.config
    assert attached.generation_config is model.generation_config
    assert attached.device == model.device
    with pytest.raises(AttributeError, match="no_such_thing"):
        attached.no_such_thing  # noqa: B018


def test_two_cartridges_of_one_model_are_used_at_the_same_time(pocket, chats):
    model, tokenizer, cartridge, *_ = pocket
    other = Cartridge(*prefill(model, ChatRenderer(tokenizer).context_ids([200, 201, 202])))
    attached = [c.attach(model, tokenizer) for c in (cartridge, other)]
    expected = [one.chat(chats[0], max_new_tokens=8) for one in attached]
    assert expected[0] != expected[1]
    with ThreadPoolExecutor(4) as pool:
        made = pool.map(lambda i: attached[i % 2].chat(chats[0], max_new_tokens=8), range(40))
        assert list(made) == expected * 20


def test_a_chat_beyond_the_models_positions_is_refused_and_an_answer_cut(pocket):
    _, tokenizer, _, _, task = pocket
    small = tiny_config_model(
        "llama", vocab_size=len(tokenizer), max_position_embeddings=40, hidden_size=32, eos_token_id=None
    )
    attached = Cartridge(*prefill(small, range(8, 28))).attach(small, tokenizer)
    question = task.questions()[0].prompt
    asked = len(attached.renderer.prompt_ids([user(question)]))
    assert len(attached.reply_ids([user(question)], max_new_tokens=100)) <= 40 - 20 - asked
    with pytest.raises(
        ValueError, match="leave no room for an answer: the model has max_position_embeddings=40"
    ):
        attached.chat(" ".join([question] * 9))


def test_a_cartridge_of_another_model_is_refused(pocket):
    _, tokenizer, cartridge, *_ = pocket
    with pytest.raises(ValueError, match="does not fit"):
        cartridge.attach(tiny_config_model("llama"), tokenizer)
