"""The card of a cartridge: its code works as it stands, and nothing in a name gets out of its place."""

from __future__ import annotations

import re

import pytest
import yaml
from markdown_it import MarkdownIt

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cartridge_files.model_card import markdown_text, model_card, python_text
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket import World
from lit_cartridges.text import text_ids

POCKET = "package:lit_cartridges.pocket/model"
HOSTILE = [
    "x\ntags: [evil]\n---\n# <script>alert(1)</script>",
    "`<img src=x onerror=alert(1)>`",
    "[a](javascript:alert(1)) ![b](http://evil/pixel.png) https://evil.example www.evil.example",
    "a\"); import os; os.system('x') #",
    "```\n# out\n```",
    "yes: {a: b}\r\n...\u2028- &anchor *alias \x1b[2J \u202e",
    "<!-- ",
    "null",
    "some/model\n",
]


def card(*, place=".", **known):
    provenance = {
        "base_model": "some/model",
        "corpus_sha256": "c" * 64,
        "init": "FirstTokens",
        "steps": 7,
        "loss": 0.25,
    }
    return model_card(
        {"format_version": 1, "num_tokens": 6, "num_frozen_tokens": 2, "provenance": provenance | known},
        place=place,
    )


def code_of(text):
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return code


def test_the_code_on_the_card_answers_questions_about_the_text(tmp_path, monkeypatch, capsys):
    world = World(5)
    corpus = world.corpus(150)
    model, tokenizer = load_model(POCKET, dtype="float32"), load_tokenizer(POCKET)
    context = ChatRenderer(tokenizer).context_ids(text_ids(tokenizer, corpus.text))
    known = Provenance(base_model=POCKET, fingerprint=Fingerprint.of_config(model.config))
    Cartridge(*prefill(model, context), provenance=known).save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code_of((tmp_path / "README.md").read_text()), names)
    assert capsys.readouterr().out.strip(), "it prints an answer"
    questions = world.questions(corpus, 20, seed=1)
    right = [question.is_right(names["chat"].chat(question.prompt)) for question in questions]
    assert sum(right) >= 18


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["base_model", "init", "corpus_sha256"])
def test_a_hostile_name_stays_in_its_place(place, name):
    text, tame = card(**{place: name}), card()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.S).groups()
    known = yaml.safe_load(front)
    assert known["tags"] == ["cartridge", "kv-cache"] and known.keys() <= {
        "library_name",
        "tags",
        "base_model",
    }
    if place == "base_model" and "base_model" in known:
        assert known["base_model"] == name
    # Rendered with HTML and links allowed, it has the structure of any other card.
    reader = MarkdownIt("commonmark", {"html": True})
    assert kinds(reader.parse(body)) - {"code_inline"} == kinds(reader.parse(tame.split("---\n", 2)[2])) - {
        "code_inline"
    }
    assert (
        "<script" not in text
        and "<img" not in text
        and not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    )
    compile(code_of(text), "card", "exec")
    assert eval(python_text(name)) == name


def kinds(tokens):
    return {token.type for token in tokens} | {
        child.type for token in tokens for child in token.children or ()
    }


def test_a_name_is_shown_as_it_is():
    shown = MarkdownIt().renderInline(markdown_text("a_b*c* <d> & `e` #1 [x](y) www.z.example"))
    assert shown == "a_b*c* &lt;d&gt; &amp; `e` #1 [x](y) www.z.example"


@pytest.mark.parametrize("base", ["123", "null", "yes", "a/b"])
def test_a_name_that_yaml_would_read_otherwise_is_quoted(base):
    assert yaml.safe_load(card(base_model=base).split("---\n")[1])["base_model"] == base


@pytest.mark.parametrize("base", ["", "/models/llama", "./llama", POCKET, "a/b/c", "a b", "C:\\models", "-x"])
def test_what_the_hub_would_not_take_for_a_model_is_not_linked(base):
    assert "base_model:" not in card(base_model=base)


def test_a_revision_of_the_base_model_is_loaded():
    assert 'load_model("some/model", revision="v1")' in card(base={"revision": "v1"})
    assert "revision" not in card(base={"revision": None})


def test_a_card_on_the_hub_loads_from_there():
    assert 'Cartridge.from_pretrained("me/mine")' in code_of(card(place="me/mine"))
