"""The pocket tokenizer: round trips, the chat template, unknown words."""

from __future__ import annotations

import random

import pytest
from transformers import AutoTokenizer

from lit_cartridges.pocket import World, unknown_words
from lit_cartridges.pocket.questions import KINDS, ask
from lit_cartridges.pocket.tokenizer import SPECIAL_TOKENS, build_tokenizer, words


@pytest.fixture(scope="module", params=["built", "reloaded"])
def tokenizer(request, tmp_path_factory):
    built = build_tokenizer()
    if request.param == "built":
        return built
    folder = tmp_path_factory.mktemp("tokenizer")
    built.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_vocabulary():
    assert len(words()) == len(set(words())) <= 1000
    assert words()[: len(SPECIAL_TOKENS)] == tuple(SPECIAL_TOKENS)


def test_one_word_is_one_token_and_back(tokenizer):
    corpus, rng = World(1).corpus(2000), random.Random(1)
    texts = [corpus.text, *(ask(kind, corpus, rng).prompt for kind in KINDS)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.split()) and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_punctuation_needs_no_blanks(tokenizer):
    assert tokenizer("the city , of tea .")["input_ids"] == tokenizer("the city, of tea.")["input_ids"]


def test_chat_template(tokenizer):
    messages = [
        {"role": "system", "content": "the city is old ."},
        {"role": "user", "content": "what is it ?"},
        {"role": "assistant", "content": "tea ."},
        {"role": "user", "content": "why ?"},
    ]

    def render(which, **options):
        return tokenizer.apply_chat_template(which, tokenize=False, **options)

    whole = "<bos> <system> the city is old . <user> what is it ? <assistant> tea . <end> <user> why ? <assistant>"
    assert render(messages, add_generation_prompt=True) == whole
    assert render(messages[1:2]) == "<bos> <user> what is it ?"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == whole.split()
    assert tokenizer.eos_token == "<end>" and tokenizer.bos_token == "<bos>"
    with pytest.raises(Exception, match="unknown role: tool"):
        render([{"role": "tool", "content": "x"}])


def test_unknown_words_are_named():
    assert unknown_words("the city of London, is old . London ! <user>") == ["London", "!", "<", ">"]
    assert unknown_words(World(8).corpus(800).text) == []
