"""Passkeys: where the key stands, how digits are graded, and that a cache which still holds the key finds it."""

from __future__ import annotations

import json
import re

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.cli import main
from lit_cartridges.commands.passkey import passkey_command, passkey_table
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.passkey import EnglishPasskey, PasskeyCell, passkey_cell
from lit_cartridges.evals.systems import ContextTooLong
from lit_cartridges.evals.tasks.task import EvalError
from lit_cartridges.evals.tasks.word_passkey import WordPasskey
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket.passkey import PocketPasskey
from lit_cartridges.pocket.pocket_text import read_corpus
from lit_cartridges.pocket.tokenizer import build_tokenizer, unknown_words

POCKET = "package:lit_cartridges.pocket/model"
SMALL = CascadeOptions(total_tokens=68, cascades=4, sink_tokens=4, stride_tokens=64)


def one_token_per_word():
    """A tokenizer to which every word is the unknown one."""
    core = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@pytest.mark.parametrize("language", [EnglishPasskey(num_digits=6), PocketPasskey(num_facts=3)])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_the_key_is_stated_once_at_its_depth_of_a_text_of_its_length(language, depth):
    sample = language.sample(one_token_per_word(), num_tokens=400, depth=depth, seed=5)
    words = sample.text.split()
    assert 380 < len(words) <= 400
    key = "".join(sample.key) if isinstance(language, EnglishPasskey) else sample.key[0]
    places = [i for i, word in enumerate(words) if word.strip(".") == key]
    assert len(places) == 1
    assert places[0] / len(words) == pytest.approx(depth, abs=0.08)
    again = language.sample(one_token_per_word(), num_tokens=400, depth=depth, seed=5)
    other = language.sample(one_token_per_word(), num_tokens=400, depth=depth, seed=6)
    assert again == sample and other.key != sample.key


def test_a_pocket_key_is_facts_that_the_language_can_read_and_ask_for():
    sample = PocketPasskey(num_facts=4).sample(build_tokenizer(), num_tokens=300, depth=0.5, seed=1)
    assert unknown_words(sample.text) == []
    known = read_corpus(sample.text)
    assert sorted(fact.value for fact in known.facts) == sorted(sample.key) and len(set(sample.key)) == 4
    assert len({fact.name for fact in known.facts}) == 1
    assert all(len(places) == 1 for places in known.spans.values())
    for question, value in zip(sample.questions, sample.key, strict=True):
        assert question.answer.split()[-2] == value and question.values == (value,)


@pytest.mark.parametrize(
    ("reply", "digits"),
    [
        ("40917", "40917"),
        ("The pass key is 40,917.", "40917"),
        ("It is 4 0 9, not 3.", "409"),
        ("I forgot.", ""),
    ],
)
def test_english_digits_are_those_of_the_first_number(reply, digits):
    assert "".join(EnglishPasskey().digits([reply])) == digits


def test_pocket_digits_are_value_words_and_two_of_them_are_none():
    replies = ["the pet of Belin is cat .", "the pet of Belin is cat dog .", "nobody knows ."]
    assert PocketPasskey().digits(replies) == ["cat", "cat dog", ""]


def test_settings_that_cannot_be():
    with pytest.raises(EvalError, match=r"num_facts=7 must lie in 1\.\.6"):
        PocketPasskey(num_facts=7)
    with pytest.raises(ValueError, match="num_digits=0"):
        EnglishPasskey(num_digits=0)
    with pytest.raises(EvalError, match="lengths=5: so many tokens do not hold a key"):
        PocketPasskey().sample(one_token_per_word(), num_tokens=5, depth=0.5, seed=0)
    for options in ({"systems": ["rag"]}, {"samples": 0}, {"depths": [1.5]}, {"lengths": [4]}):
        with pytest.raises(ValueError, match=r"systems=|samples=0|depths=|lengths=4"):
            passkey_command(model=POCKET, language=PocketPasskey(), cascade=SMALL, **options)


@pytest.fixture(scope="module")
def pocket():
    return load_model(POCKET), ChatRenderer(load_tokenizer(POCKET))


def ask(pocket, system: str, depth: float, num_tokens: int = 300, **options) -> PasskeyCell:
    size = {"num_tokens": num_tokens, "depth": depth, "samples": 2, "max_new_tokens": 12}
    return passkey_cell(*pocket, system, PocketPasskey(num_facts=2), SMALL, **size, **options)


def test_what_the_cache_holds_is_found_and_what_it_lost_is_not(pocket):
    whole = ask(pocket, "icl", 0.5)
    assert (whole.per_digit, whole.exact, whole.samples) == (1.0, 1.0, 2)
    near = ask(pocket, "streaming_llm", 1.0)
    assert near.per_digit == 1.0, "the key is in the window"
    far = ask(pocket, "streaming_llm", 0.2)
    assert far.per_digit < 0.5, "the window has passed it"
    assert ask(pocket, "no_context", 0.5).per_digit < 0.5
    cut = ask(pocket, "truncated_icl", 1.0, max_context_tokens=128)
    assert cut.per_digit < 0.5, "the text's first tokens do not reach it"
    with pytest.raises(ContextTooLong):
        ask(pocket, "icl", 0.5, max_context_tokens=128)


def test_the_command_prints_every_system_by_length_and_depth(tmp_path, capsys):
    main(
        ["passkey", "--model", POCKET, "--language", "lit_cartridges.pocket.passkey.PocketPasskey"]
        + ["--language.num_facts", "1", "--lengths", "[40, 200]", "--depths", "[0.5]", "--samples", "1"]
        + ["--systems", "[cascade, icl]", "--cascade.total_tokens", "68", "--cascade.stride_tokens", "64"]
        + ["--max_context_tokens", "128", "--out", str(tmp_path / "out.json")]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("left out icl") and "at 50%" in printed[1]
    assert [line.split()[:2] for line in printed[3:]] == [
        ["cascade", "40"],
        ["cascade", "200"],
        ["icl", "40"],
    ]
    cells = json.loads((tmp_path / "out.json").read_text())["cells"]
    assert [(c["system"], c["num_tokens"], c["depth"]) for c in cells] == [
        ("cascade", 40, 0.5), ("cascade", 200, 0.5), ("icl", 40, 0.5)
    ]  # fmt: skip
    assert cells[0]["exact"] == cells[2]["exact"] == 1.0


def test_the_table_averages_over_depths():
    cells = [
        PasskeyCell(system="a", num_tokens=9, depth=depth, samples=2, per_digit=share, exact=0.0)
        for depth, share in ((0.0, 1.0), (1.0, 0.5))
    ]
    assert passkey_table(cells).splitlines()[-1].split() == ["a", "9", "4", "0.750", "0.000", "1.00", "0.50"]


def test_a_key_in_words_is_stated_twice_between_marks(tmp_path):
    (tmp_path / "words").write_text("apple\npear\n")
    language = WordPasskey(words=tmp_path / "words")
    sample = language.sample(one_token_per_word(), num_tokens=300, depth=0.5, seed=3)
    before, inside, after = re.split(r"===[A-Z ]*===", sample.text)
    assert set(before.split()) == set(after.split()) == {"apple", "pear"}
    lines = inside.strip().split("\n")
    assert len(lines) == 2 and lines[0] == lines[1] and lines[0].count("".join(sample.key)) == 2
    assert abs(len(before.split()) - len(after.split())) <= 16 and 280 < len(sample.text.split()) <= 300
    assert language.digits(["It is 1 2-3, 4 5 6."]) == list("12345") and language.digits(["none"]) == []


def test_a_key_in_words_needs_words(tmp_path):
    (tmp_path / "words").write_text(" ")
    with pytest.raises(EvalError, match="holds no word"):
        WordPasskey(words=tmp_path / "words")
    assert len(WordPasskey().words) > 1000
