"""The two sides of the table of kvpress are asked the same; the real kvpress where its environment is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import kvpress_peer
from tests.tiny_run import save_model

KVPRESS = Path(__file__).parents[2] / ".venv-kvpress" / "bin" / "python"


def test_without_kvpress_it_says_so(capsys, tmp_path):
    figures = kvpress_peer.main(["--json", str(tmp_path / "figures.json")])
    assert figures["results"] == [] and (tmp_path / "figures.json").is_file()
    assert "nothing is measured without --kvpress" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not KVPRESS.exists(), reason="no environment with kvpress; make install-kvpress")
def test_both_sides_answer_the_whole_context_alike(tmp_path, capfd):
    (tmp_path / "speech.txt").write_text(" ".join(f"w{i} w{i + 1} w{i + 2}." for i in range(60)))
    given = ["--kvpress", str(KVPRESS), "--haystack", str(tmp_path / "speech.txt"), "--device", "cpu"]
    given += ["--model", save_model(tmp_path / "model"), "--length-tokens", "300", "--contexts", "2"]
    given += ["--kinds", "niah_single_2", "--questions", "2", "--ratios", "0.5", "--max-new-tokens", "5"]
    given += ["--presses", "KnormPress", "--inits", "FirstTokens", "--folder", str(tmp_path / "run")]
    figures = kvpress_peer.main(given)
    assert figures["same_replies"] == (4, 4)
    asked = json.loads((tmp_path / "run" / "questions.json").read_text())
    assert len(asked["contexts"]) == 2 and all(len(one["questions"]) == 2 for one in asked["contexts"])
    rows = [(one["side"], one["system"], one["ratio"]) for one in figures["results"]]
    assert rows == [
        ("kvpress", "whole", 0.0),
        ("kvpress", "KnormPress", 0.5),
        ("ours", "whole", 0.0),
        ("ours", "FirstTokens", 0.5),
    ]
    assert all(0 <= one["score"] <= 1 and one["seconds"] > 0 for one in figures["results"])
    lines = (tmp_path / "run" / "kvpress.jsonl").read_text()
    kvpress_peer.main(given)  # nothing is asked twice
    assert (tmp_path / "run" / "kvpress.jsonl").read_text() == lines
    with pytest.raises(SystemExit, match="holds a run with other settings"):
        kvpress_peer.main([*given, "--ratios", "0.25"])
    assert "kvpress: KnormPress" in capfd.readouterr().out
