"""The card of a cartridge: its code works as it stands, and nothing in a name gets out of its place."""

from __future__ import annotations

import re

import pytest
import yaml
from markdown_it import MarkdownIt

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cartridge_files.facts import Score, license_of, with_scores
from lit_cartridges.cartridge_files.model_card import markdown_text, model_card, python_text
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models import load_model, load_tokenizer, resolve
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


def score(**known):
    figures = {"accuracy": 0.875, "accuracy_standard_error": 0.01, "answer_log_likelihood": -0.5}
    counts = {"num_questions": 40, "num_kv_tokens": 6}
    return {"task": "facts", "system": "cartridge"} | figures | counts | known


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
    assert known["tags"] == ["cartridge", "kv-cache"]
    assert known.keys() <= {"library_name", "tags", "base_model"}
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


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["corpus", "task", "setting"])
def test_a_hostile_note_stays_in_its_place(place, name):
    def noted(value):
        known = {"corpus": "c", "task": "t", "setting": "s", place: value}
        scores = [score(task=known["task"])]
        notes = {"corpus": {"name": known["corpus"], "tokens": 60}, "settings": {"x": known["setting"]}}
        return card(notes=notes | {"scores": scores, "license": "mit"})

    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    text, tame = noted(name), noted("plain")
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.S).groups()
    assert yaml.safe_load(front).keys() == yaml.safe_load(tame.split("---\n")[1]).keys()
    assert [t.type for t in reader.parse(body)] == [t.type for t in reader.parse(tame.split("---\n", 2)[2])]
    assert "<script" not in text and "<img" not in text


def test_the_card_tells_corpus_licence_compression_scores_and_settings():
    baseline = score(system="icl", accuracy=1.0, num_kv_tokens=62)
    notes = {
        "corpus": {"name": "book.txt", "tokens": 63},
        "license": "apache-2.0",
        "settings": {"data.uses": 2},
    }
    text = card(notes=notes | {"scores": [baseline, score()]})
    known = yaml.safe_load(text.split("---\n")[1])
    (result,) = known["model-index"][0]["results"]
    assert known["license"] == "apache-2.0" and result["metrics"][0]["value"] == 0.875
    for fact in ("the corpus book.txt (63 tokens", "Compression: 10.5×", "| data.uses | 2 |"):
        assert fact in text
    rows = [line for line in text.splitlines() if line.startswith(("| cartridge", "| icl"))]
    assert rows == [
        "| cartridge | facts | 6 | 0.875 ± 0.010 | -0.500 | 40 |",
        "| icl | facts | 62 | 1.000 ± 0.010 | -0.500 | 40 |",
    ]


@pytest.mark.parametrize(
    "notes",
    [
        {"corpus": [1], "settings": 3, "scores": "x", "license": "MIT License\n---"},
        {"corpus": {"name": None, "tokens": -4}, "scores": [{"task": "t"}, 7, score(accuracy="high")]},
        {"scores": {"a": 1}, "license": ["mit"], "corpus": {"tokens": 2**70}},
    ],
)
def test_notes_of_another_form_are_left_out(notes):
    assert card(notes=notes) == card()


def test_of_one_task_and_system_the_newer_score_stands():
    first = with_scores(Provenance(notes={"a": 1}), [Score(**score()), Score(**score(task="other"))])
    second = with_scores(first, [Score(**score(accuracy=0.5))])
    assert second.notes["a"] == 1
    assert [(one["task"], one["accuracy"]) for one in second.notes["scores"]] == [
        ("facts", 0.5),
        ("other", 0.875),
    ]


def test_the_licence_is_what_the_models_own_card_names(tmp_path):
    assert license_of(resolve(POCKET)) == "apache-2.0"
    for content, named in (
        ("---\nlicense: MIT\n---\n", "mit"),
        ("---\nlicense: [a]\n---\n", ""),
        ("\x00", ""),
        ("---\n{", ""),
    ):
        (tmp_path / "README.md").write_text(content)
        assert license_of(tmp_path) == named
    assert license_of(tmp_path / "nowhere") == license_of("some/model") == ""
