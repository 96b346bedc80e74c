from __future__ import annotations

import hashlib
import json
import logging

import numpy as np
import pytest

from lit_cartridges.pocket.tokenizer import build_tokenizer
from lit_cartridges.self_study import (
    Corpus,
    CorpusError,
    FolderCorpus,
    JsonCorpus,
    MarkdownCorpus,
    TextCorpus,
    open_corpus,
)


def test_text(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfMira keeps bees.\r\n")
    corpus = TextCorpus(path=path)
    assert corpus.text == "Mira keeps bees."
    assert corpus.sha256 == hashlib.sha256(b"Mira keeps bees.").hexdigest()
    ids = corpus.token_ids(tokenizer)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids.tolist()) == corpus.text
    assert open_corpus(corpus) is corpus


def test_folder_is_sorted_and_skips_binary_hidden_and_foreign_files(tmp_path, caplog):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for name, content in {
        "b.txt": b"second",
        "a.md": b"first",
        "sub/c.py": b"third",
        ".git/x.txt": b"hidden",
        "picture.txt": b"GIF\0\1",
        "latin.txt": "é".encode("latin-1"),
        "photo.jpg": b"text",
        "empty.txt": b" \n",
    }.items():
        (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.INFO):
        corpus = FolderCorpus(path=tmp_path, patterns=["*.txt", "*.md", "*.py", "a*"])
        assert corpus.text == "first\n\nsecond\n\nthird"
    assert [d.name for d in corpus.documents()] == ["a.md", "b.txt", "sub/c.py"]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "took 3 files (1 .md, 1 .txt, 1 .py)",
        "left out 1 (picture.txt): binary",
        "left out 1 (empty.txt): empty",
        "left out 1 (.git/): hidden",
        "left out 1 (photo.jpg): not of patterns",
        "left out 1 (latin.txt): not text in encoding='utf-8' but, it seems, in cp1252; set encoding to 'cp1252'",
    ]


def test_json_and_jsonl(tmp_path):
    records = [{"body": {"text": "one"}}, {"body": {"text": "two\u2028lines"}}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n")
    (tmp_path / "strings.json").write_text('["one", "two"]')
    for name in ("a.json", "a.jsonl"):
        corpus = JsonCorpus(path=tmp_path / name, field="body.text")
        assert [d.text for d in corpus.documents()] == ["one", "two\u2028lines"]
    assert open_corpus(tmp_path / "strings.json").text == "one\n\ntwo"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"body": "x"}]', r"field='text' is not in a.json\[0\].*\['body'\]"),
        ("a.json", '[{"text": 3}]', "must be text, got int"),
        ("a.jsonl", '{"text": "x"}\n{"text"', "line 2 is no JSON"),
        ("a.json", "[]", "corpus is empty; no record has text in field='text'"),
        ("a.jsonl", "", "corpus is empty"),
        ("a.json", '[{"text": null}]', "must be text, got NoneType"),
        ("a.json", '[{"text": NaN}]', "must be text, got float"),
        ("a.json", '["ok", "\\ud800"]', r"a.json\[1\] holds text that is no Unicode \(half a surrogate"),
        ("a.jsonl", '{"text": "\\udfff"}', r"a.jsonl\[0\] holds text that is no Unicode"),
        ("a.json", "[" * 100_000, "the file is no JSON .*nested too deeply"),
        ("a.jsonl", '{"text": "x"}\n' + "9" * 5000, "line 2 is no JSON .*limit"),
        ("a.json", json.dumps({f"key {i}": 1 for i in range(9999)}), "set field to one of what is there"),
    ],
)
def test_bad_json(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(CorpusError, match=message) as caught:
        _ = open_corpus(tmp_path / name).text
    told = str(caught.value)
    assert str(tmp_path / name) in told and "\n" not in told and len(told) < 1000


def test_what_stands_beside_the_text_is_nobodys_business(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one", "score": NaN, "raw": "\\ud800"}]')
    assert open_corpus(tmp_path / "a.json").text == "one"


def test_markdown(tmp_path):
    path = tmp_path / "a.md"
    path.write_text(
        "---\ntitle: x\n---\nIntro.\n# One\ntext\n```sh\n# no heading\n```\n## Sub\n# Two #\nmore\n"
    )
    documents = list(MarkdownCorpus(path=path).documents())
    assert [d.name for d in documents] == ["a.md", "One", "Two"]
    assert documents[1].text == "# One\ntext\n```sh\n# no heading\n```\n## Sub"
    path.write_text("---\nan open rule, no front matter")
    assert "an open rule" in MarkdownCorpus(path=path).text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", TextCorpus),
        ("a.MD", MarkdownCorpus),
        ("a.json", JsonCorpus),
        ("a.jsonl", JsonCorpus),
        ("a.log", TextCorpus),
    ],
)
def test_open_corpus(tmp_path, name, kind):
    (tmp_path / name).write_text("x")
    assert type(open_corpus(tmp_path / name)) is kind
    assert type(open_corpus(tmp_path)) is FolderCorpus


def test_bad_places(tmp_path):
    with pytest.raises(CorpusError, match="path=.*no such file"):
        TextCorpus(path=tmp_path / "none.txt")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(CorpusError, match="encoding='utf-8'"):
        _ = TextCorpus(path=tmp_path / "a.txt").text
    assert TextCorpus(path=tmp_path / "a.txt", encoding="latin-1").text == "ÿ"
    with pytest.raises(CorpusError, match="is no folder"):
        FolderCorpus(path=tmp_path / "a.txt")


def test_empty_corpora(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(CorpusError, match="path=.*the corpus is empty"):
        TextCorpus(path=tmp_path / "a.txt").token_ids(tokenizer)
    with pytest.raises(CorpusError, match="patterns="):
        _ = FolderCorpus(path=tmp_path, patterns=["*.rst"]).text


def test_readers_are_built_from_the_command_line(tmp_path):
    from jsonargparse import ArgumentParser

    (tmp_path / "a.json").write_text('[{"body": "x"}]')
    parser = ArgumentParser()
    parser.add_subclass_arguments(Corpus, "corpus")
    config = parser.parse_args(
        ["--corpus=JsonCorpus", f"--corpus.path={tmp_path}/a.json", "--corpus.field=body"]
    )
    assert parser.instantiate(config).corpus.text == "x"


def test_text_that_looks_like_a_special_token_stays_text(tmp_path):
    tokenizer = build_tokenizer()
    (tmp_path / "corpus.txt").write_text("the <user> day")
    ids = TextCorpus(path=tmp_path / "corpus.txt").token_ids(tokenizer).tolist()
    assert ids[0] == tokenizer.convert_tokens_to_ids("the") and ids[-1] == tokenizer.convert_tokens_to_ids(
        "day"
    )
    assert tokenizer.convert_tokens_to_ids("<user>") not in ids


def test_a_text_that_the_tokenizer_knows_badly_is_told_once_with_its_share(tmp_path, caplog):
    words = build_tokenizer()
    known, unknown = tmp_path / "known.txt", tmp_path / "unknown.txt"
    known.write_text("the day . " * 50)
    unknown.write_text("the zeitgeist " * 50)
    TextCorpus(path=known).token_ids(words)
    assert not caplog.records
    corpus = TextCorpus(path=unknown)
    for _ in range(2):
        corpus.token_ids(words)
    assert [r.getMessage().partition(", which")[0] for r in caplog.records] == [
        f"corpus {unknown}: 50 of its 100 tokens (50.0%) are {words.unk_token}"
    ]
