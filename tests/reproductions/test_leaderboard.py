"""Runs side by side; foreign files are named, and nothing that they say is trusted."""

from __future__ import annotations

import json

import pytest

from lit_cartridges.cli import main
from lit_cartridges.reproductions import reproduce
from lit_cartridges.reproductions.leaderboard import leaderboard
from tests.reproductions.small_table import Small


@pytest.fixture
def folder(tmp_path):
    for run in ("ann", "bo"):
        reproduce(Small(), tmp_path / run)
    return tmp_path


def changed(path, **figure):
    content = json.loads(path.read_text())
    content["figures"][0] |= figure
    path.write_text(json.dumps(content))


def test_the_front_is_what_no_other_beats(folder, capsys):
    changed(folder / "bo" / "result.json", mean=0.9, kv_bytes=500)
    (folder / "extra.json").write_text((folder / "ann" / "result.json").read_text())
    changed(folder / "extra.json", mean=0.95, kv_bytes=9000, row="<b>bold</b>")
    main(["leaderboard", str(folder)])
    told = capsys.readouterr().out
    assert "small: left" in told and "left out" not in told
    board = next(one for one in leaderboard(folder)[0] if one.title == "small: left")
    assert board.front == ("bo: one", "extra.json: <b>bold</b>"), "ann has more bytes than bo and is worse"
    assert [one.figure.mean for one in board.entries] == [0.95, 0.9, 0.5, 0.5, 0.5, 0.5]
    for name in ("leaderboard.md", "leaderboard.svg"):
        assert "&lt;b&gt;" in (text := (folder / name).read_text()) and "<b>" not in text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no result"),
        ("[]", "it must be an object"),
        ('{"table": "x"}', "it has no paper"),
        ("NaN", "no result"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_foreign_files_are_named_and_left_out(folder, text, why):
    (folder / "cy").mkdir()
    (folder / "cy" / "result.json").write_text(text)
    known, [refused] = leaderboard(folder)
    assert known and why in refused and "cy" in refused
    assert "left out" in (folder / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    "figure", [{"mean": 1e400}, {"standard_error": -1.0}, {"kv_bytes": -5}, {"mean": "0.5"}, {"more": 1}]
)
def test_figures_that_cannot_be_are_refused(folder, figure):
    changed(folder / "bo" / "result.json", **figure)
    assert "bo" in leaderboard(folder)[1][0]


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["leaderboard", str(tmp_path)])
    assert "holds no result.json" in capsys.readouterr().err
