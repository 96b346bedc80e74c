"""What taught an answer: the recorded conversations that share its rare words, of the cartridge's own corpus alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.parquet import write_conversations
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.shelf import Shelf
from lit_cartridges.serving.sources import Recorded, Sources
from tests.serving.shelves import fill, of_text


def talk(question: str, answer: str, chunk: str, **metadata) -> Conversation:
    ids = np.asarray([1, 2], dtype=np.int32)
    messages = Message("user", question, ids), Message("assistant", answer, ids)
    return Conversation(messages, chunk, {"chunk_start_token": 7, **metadata})


TALKS = [
    talk("who is the smith ?", "the smith is Anna .", "Anna is the smith ."),
    talk("is Anna the smith ?", "yes .", "Anna is the smith ."),
    talk("where is the mill ?", "the mill is in Boro .", "in Boro there is the mill ."),
    talk("what is the weather ?", "the weather is the rain .", "it is the rain ."),
]


def test_rare_words_count_and_no_chunk_comes_twice():
    found = Recorded("a", TALKS).nearest("The mill? It is in BORO.", 3)
    assert found[0].chunk == TALKS[2].system_prompt and found[0].chunk_start_token == 7
    assert (found[0].question, found[0].answer) == ("where is the mill ?", "the mill is in Boro .")
    assert len({one.chunk for one in found}) == len(found) == 3
    assert 1 >= found[0].nearness > 2 * found[1].nearness > 0
    assert Recorded("a", TALKS).nearest("nobody knows", 3) == [] == Recorded("a", []).nearest("who", 3)


@pytest.fixture
def folder(tmp_path):
    folder = fill(tmp_path / "runs", a=1, b=2, c=3)
    sha = of_text(1).provenance.corpus_sha256
    known = [replace(one, metadata={**one.metadata, "corpus_sha256": sha}) for one in TALKS]
    write_conversations(folder / "a" / "recording" / "part-0.parquet", known)
    other = [talk("who is the smith ?", "Zora .", "Zora .", corpus_sha256="another")]
    write_conversations(folder / "a" / "recording" / "part-1.parquet", other)
    (folder / "a" / "recording" / "part-2.parquet").write_bytes(b"PAR1 no")
    return folder


def test_they_are_those_beside_the_runs_cartridge_about_its_corpus(folder, tmp_path, caplog):
    sources = Sources(Shelf(folder))
    found = sources.nearest(["b", "a"], "who is the smith ? Zora .")
    assert [one["cartridge"] for one in found] == ["a"] * len(found) and len(found) == 3
    assert found[0]["answer"] == "the smith is Anna ." and all("Zora" not in one["chunk"] for one in found)
    assert "part-2" in caplog.text and str(folder) not in caplog.text
    with pytest.raises(Refusal):
        sources.nearest(["d"], "who")
    outside = tmp_path / "outside"
    write_conversations(outside / "part-0.parquet", [talk("who ?", "Eve .", "secret")])
    (folder / "c" / "recording").symlink_to(outside)
    (folder / "a" / "recording" / "part-3.parquet").symlink_to(outside / "part-0.parquet")
    assert Sources(Shelf(folder)).nearest(["a", "c"], "Eve secret") == []
