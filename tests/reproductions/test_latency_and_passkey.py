"""The tables of seconds and of passkeys, small."""

from __future__ import annotations

import pytest

from lit_cartridges.reproductions import reproduce
from lit_cartridges.reproductions.tables.latency import DENSE, Latency
from lit_cartridges.reproductions.tables.passkey import PasskeyTable
from tests.tiny_run import save_model


def test_latency_has_a_row_for_each_way_and_its_share_of_dense_attention(tmp_path):
    table = Latency(
        size="tiny", lengths=(64, 128), positions=32, strides=(16, 32), repeats=2, dtype="float32"
    )
    result = reproduce(table, tmp_path, device="cpu")
    found = {(one.row, one.column): one for one in result.figures}
    assert len({row for row, _ in found}) == 5
    for row, column in found:
        assert found[row, column].num_questions == 2 and found[row, column].mean > 0
    row = "cascade, 4 sub-caches, stride 16"
    assert found[row, "128 tokens"].num_kv_tokens == 36
    ratios = [a / b for a, b in zip(*(table._seconds(name, 64) for name in (row, DENSE)), strict=True)]
    assert found[row, "64 tokens, ÷ dense"].mean == pytest.approx(sum(ratios) / 2)


def test_passkeys_are_the_same_texts_for_all_systems_at_all_depths(tmp_path, monkeypatch):
    words = tmp_path / "words.txt"
    words.write_text("w1\nw2\nw3\n")
    settings = {
        "model": save_model(tmp_path / "model"),
        "words": words,
        "lengths": (96,),
        "positions": 32,
        "sink_tokens": 4,
        "stride_tokens": 32,
        "samples": 1,
        "max_new_tokens": 3,
        "systems": ("cascade", "streaming_llm"),
        "cascades": 4,
    }
    table = PasskeyTable(**settings)
    asked = []
    told = table._asked
    monkeypatch.setattr(table, "_asked", lambda *given: asked.append(given) or told(*given))
    result = reproduce(table, tmp_path / "run", device="cpu")
    mine, theirs = ([one[1:] for one in asked if one[0] == name] for name in ("cascade", "streaming_llm"))
    assert mine == theirs and len({number for *_, number in mine}) == 5
    assert sorted(int(5 * depth) for _, depth, _ in mine) == [0, 1, 2, 3, 4]
    assert [one.column for one in result.figures] == [
        "96 tokens",
        "96 tokens",
        "96 tokens, points above streaming_llm",
    ]
    assert result.figures[2].mean == pytest.approx(result.figures[0].mean - result.figures[1].mean)
