from __future__ import annotations

import datetime

import numpy as np
import pytest

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, RendererError, user

END_OF_TURN = {
    "llama": "<|eot_id|>",
    "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "gemma_folded": "<end_of_turn>",
    "deaf": "<|im_end|>",
}
CHUNK = "Mira was born in Odrin. <b>é</b>\nShe keeps bees."


def template_ids(tokenizer, messages):
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return tokenizer.encode(text, add_special_tokens=False)


def answer(tokenizer, text, *, end=None):
    ids = tokenizer.encode(text + (end or ""), add_special_tokens=False)
    return Message("assistant", text, np.asarray(ids, dtype=np.int32))


@pytest.mark.parametrize("name", ["llama", "chatml", "gemma_folded"])
@pytest.mark.parametrize("system_template", ["{chunk}", "Read this: {chunk} Thank you."])
def test_context_and_prompt_are_exactly_the_template(make_tokenizer, name, system_template):
    tokenizer = make_tokenizer(name)
    renderer = ChatRenderer(tokenizer, system_template=system_template)
    chunk_ids = tokenizer.encode(CHUNK, add_special_tokens=False)
    ours = renderer.context_ids(chunk_ids) + renderer.prompt_ids([user("Who keeps bees?")])
    system = system_template.replace("{chunk}", CHUNK)
    chat = [{"role": "system", "content": system}, {"role": "user", "content": "Who keeps bees?"}]
    assert ours == template_ids(tokenizer, chat)
    assert renderer.system_prompt(chunk_ids) == system


@pytest.mark.parametrize("name", ["gemma", "deaf"])
def test_without_system_role_the_chunk_opens_the_first_user_message(make_tokenizer, name):
    tokenizer = make_tokenizer(name)
    renderer = ChatRenderer(tokenizer, system_template="Text: {chunk}")
    ours = renderer.context_ids(tokenizer.encode(CHUNK)) + renderer.prompt_ids([user("Who?")])
    assert ours == template_ids(tokenizer, [{"role": "user", "content": f"Text: {CHUNK}\n\nWho?"}])


@pytest.mark.parametrize("name", sorted(END_OF_TURN))
def test_bare_prompt_is_the_chat_without_system(make_tokenizer, name):
    tokenizer = make_tokenizer(name)
    chat = [{"role": "user", "content": "Who?"}]
    assert ChatRenderer(tokenizer).bare_prompt_ids([user("Who?")]) == template_ids(tokenizer, chat)


@pytest.mark.parametrize("name", ["llama", "gemma_folded"])
@pytest.mark.parametrize("ended", [True, False])
def test_rounds_take_answers_as_generated_and_never_double_the_end(make_tokenizer, name, ended):
    tokenizer = make_tokenizer(name)
    renderer = ChatRenderer(tokenizer)
    first = answer(tokenizer, "She does.", end=END_OF_TURN[name] if ended else None)
    messages = [user("Who?"), first, user("Since when?")]
    ours = renderer.context_ids(tokenizer.encode(CHUNK)) + renderer.prompt_ids(messages)
    chat = [
        {"role": "system", "content": CHUNK},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "She does."},
        {"role": "user", "content": "Since when?"},
    ]
    assert ours == template_ids(tokenizer, chat)


def test_another_end_token_is_not_followed_by_the_template_s(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    renderer = ChatRenderer(tokenizer)
    ids = renderer.prompt_ids([user("Who?"), answer(tokenizer, "She.", end="</s>"), user("When?")])
    text = tokenizer.decode(ids)
    assert "She.</s>\n<|im_start|>user\nWhen?" in text


def test_each_answer_is_opened_by_the_generation_prompt(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    renderer = ChatRenderer(tokenizer)
    one = renderer.prompt_ids([user("Who?")])
    first = answer(tokenizer, "She.", end="<|im_end|>")
    two = renderer.prompt_ids([user("Who?"), first, user("When?")])
    assert two[: len(one)] == one, "what the teacher read in round one is a prefix of round two"
    assert tokenizer.decode(two).count("<think>\n\n</think>") == 2
    thinking = ChatRenderer(tokenizer, enable_thinking=True)
    assert "<think>" not in tokenizer.decode(thinking.prompt_ids([user("Who?")]))


def test_conversation_ids_and_spans(make_tokenizer):
    tokenizer = make_tokenizer("llama")
    renderer = ChatRenderer(tokenizer)
    answers = [answer(tokenizer, text, end="<|eot_id|>") for text in ("She.", "Since 1912.")]
    ids, spans = renderer.conversation_ids([user("Who?"), answers[0], user("When?"), answers[1]])
    assert [ids[span].tolist() for span in spans] == [a.token_ids.tolist() for a in answers]
    assert ids[: spans[0].start].tolist() == renderer.prompt_ids([user("Who?")])
    assert spans[1].stop == len(ids)


def test_no_chat_template(make_tokenizer):
    tokenizer = make_tokenizer()
    renderer = ChatRenderer(tokenizer)
    ids = renderer.context_ids(tokenizer.encode("Bees.")) + renderer.prompt_ids(
        [user("Who?"), answer(tokenizer, " She."), user("When?")]
    )
    assert tokenizer.decode(ids) == "<s>Bees.\n\nUser: Who?\nAssistant: She.\n\nUser: When?\nAssistant:"
    assert tokenizer.decode(renderer.bare_prompt_ids([user("Who?")])) == "<s>User: Who?\nAssistant:"


@pytest.mark.parametrize("name", sorted(END_OF_TURN))
def test_stop_tokens(make_tokenizer, name):
    tokenizer = make_tokenizer(name)
    renderer = ChatRenderer(tokenizer)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[name])
    assert renderer.stop_token_ids() == tuple(sorted([tokenizer.eos_token_id, end]))

    class GenerationConfig:
        eos_token_id = [end, 7]

    assert set(renderer.stop_token_ids(GenerationConfig())) == {tokenizer.eos_token_id, end, 7}
    reply = np.asarray(tokenizer.encode(" Bees. ") + [end])
    assert renderer.text(renderer.without_end(reply)) == "Bees."
    assert renderer.without_end(reply).tolist() == reply.tolist()[:-1]


def test_a_thought_is_no_part_of_a_question(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    ids = np.asarray(tokenizer.encode("<think>\nHm.\n</think>\n\nWho keeps bees?"))
    assert ChatRenderer(tokenizer).text(ids) == "Who keeps bees?"


@pytest.mark.parametrize("template", ["no chunk", "{chunk} and {chunk}"])
def test_a_system_template_needs_one_chunk(tokenizer, template):
    with pytest.raises(RendererError, match="system_template=.*exactly once"):
        ChatRenderer(tokenizer, system_template=template)


def test_a_template_that_loses_messages(tokenizer):
    tokenizer.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(RendererError, match="chat template"):
        ChatRenderer(tokenizer)


def test_order_of_messages(tokenizer):
    with pytest.raises(RendererError, match="user, assistant"):
        ChatRenderer(tokenizer).prompt_ids([user("a"), user("b")])


# As SmolLM3: a word in the system message changes what the template itself writes.
SWITCHED = "Thinking {{ 'on' if '/think' in messages[0].content else 'off' }}.\n"


def test_a_template_that_looks_into_the_system_message(tokenizer):
    tokenizer.chat_template = SWITCHED + tokenizer.chat_template
    renderer = ChatRenderer(tokenizer, system_template="/think {chunk}")
    ours = renderer.context_ids(tokenizer.encode("Bees.")) + renderer.prompt_ids([user("Who?")])
    chat = [{"role": "system", "content": "/think Bees."}, {"role": "user", "content": "Who?"}]
    assert ours == template_ids(tokenizer, chat)
    assert tokenizer.decode(ours).startswith("Thinking on.")
    with pytest.raises(RendererError, match=r"system_template.*take <\|im_end\|> out"):
        ChatRenderer(tokenizer, system_template="/think <|im_end|> {chunk}")


def test_the_date_stands_still(make_tokenizer):
    tokenizer = make_tokenizer("chatml")
    template = tokenizer.chat_template
    tokenizer.chat_template = "{{ date_string if date_string is defined else strftime_now('%d') }}" + template
    assert tokenizer.decode(ChatRenderer(tokenizer).context_ids([])).startswith("26 Jul 2024")
    other = ChatRenderer(tokenizer, template_options={"date_string": "1 May"})
    assert tokenizer.decode(other.context_ids([])).startswith("1 May")


# As Mistral and SmolLM3: the date stands in a system message of the template's own, which bare prompts get.
CLOCK = (
    "{% set today = strftime_now('%Y-%m-%d %H:%M:%S') %}<|im_start|>system\n"
    "{{ messages[0].content if messages[0].role == 'system' else 'It is ' + today }}<|im_end|>\n"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }} {{ today }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_clock_stands_still_in_every_prompt(tokenizer, monkeypatch):
    tokenizer.chat_template = CLOCK

    def rendered(year):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(year, 11, 29, 23, 59, 59)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        today = tokenizer.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False)
        assert f"{year}-11-29 23:59:59" in today, "the template does ask this clock"
        renderer = ChatRenderer(tokenizer)
        messages = [user("Who?"), answer(tokenizer, "She."), user("When?")]
        return (
            renderer.context_ids([7]),
            renderer.prompt_ids(messages),
            renderer.bare_prompt_ids(messages),
            renderer.answer_ids("She."),
        )

    assert rendered(2025) == rendered(2026)
    assert "It is 2024-07-26 00:00:00<" in tokenizer.decode(rendered(2026)[2])


@pytest.mark.parametrize("form", ["%d %B %Y", "%A, %-d %b '%y", "100%%d %H:%M", "no date", "%I %p %j"])
@pytest.mark.parametrize(
    "inside", ["{{ strftime_now(FORM) }}", "{% macro f() %}{{ strftime_now(FORM) }}{% endmacro %}{{ f() }}"]
)
def test_the_fixed_day_is_written_as_the_template_wants_it(tokenizer, form, inside):
    tokenizer.chat_template = f"\n {inside.replace('FORM', repr(form))}|{tokenizer.chat_template}"
    head = tokenizer.decode(ChatRenderer(tokenizer).context_ids([])).split("|")[0]
    assert head.startswith("\n"), "and the template begins as it did"
    assert head.strip() == datetime.datetime(2024, 7, 26).strftime(form)
