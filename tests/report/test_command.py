"""`lit-cartridges report`: what it takes, prints and writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from lit_cartridges.cli import main
from lit_cartridges.report.comparisons import gather_comparison
from lit_cartridges.report.facts import ReportError
from lit_cartridges.report.gathering import gather

MEANS = {"mean": 0.25, "standard_error": 0.05}
COMPARISON = {
    "model": "some/model",
    "task": "facts",
    "corpus_tokens": 200,
    "seeds": 2,
    "rows": [
        {
            "strategy": name,
            "compression": 10.0,
            "num_tokens": 20,
            "accuracy": {"0": MEANS, "20": MEANS, "100": {"mean": 0.75, "standard_error": None}},
            "training_s": {"0": MEANS, "20": MEANS, "100": {"mean": 12.0, "standard_error": 1.0}},
            "init_s": MEANS,
        }
        for name in ("FirstTokens", "RandomVectors")
    ],
}


def refused(capsys, *args) -> str:
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, args)])
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1
    return told


def test_it_prints_the_numbers_and_where_the_page_is(run_folder, capsys):
    main(["report", str(run_folder)])
    told = capsys.readouterr().out
    assert f"wrote {run_folder}/report.html" in told and "accuracy ± s.e." in told
    held = json.loads((run_folder / "evaluations" / "eval.json").read_text())
    (own,) = [result for result in held["results"] if result["system"] == "cartridge"]
    assert f"{own['accuracy']:.3f} ± {own['accuracy_standard_error']:.3f}" in told


def test_scores_come_from_the_recording_and_stay_beside_the_run(run_folder):
    scores = json.loads((run_folder / "chunk_scores.json").read_text())
    (known,) = gather(run_folder)
    assert len(scores) == 8 and len(known.conversations) >= 8
    scored = [part for part in known.parts if part.loss is not None]
    assert scored and all(part.num_conversations for part in scored)


def test_a_folder_of_runs_an_evaluation_and_a_comparison_are_taken(run_folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(run_folder, tmp_path / "runs" / "a", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(run_folder / "evaluations", tmp_path / "runs" / "evaluations")
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "comparison.json").write_text(json.dumps(COMPARISON))
    assert [one.name for one in gather(tmp_path / "runs")] == ["a", "eval"]
    monkeypatch.chdir(tmp_path)
    file = run_folder / "evaluations" / "eval.json"
    main(["report", "runs", str(file), "compared", "--title=All of them"])
    text = (tmp_path / "report.html").read_text()
    assert "<title>All of them</title>" in text
    assert all(name in text for name in ("FirstTokens 10×", "RandomVectors 10×", "icl"))
    assert "wrote report.html" in capsys.readouterr().out


def test_a_comparison_s_lines_have_their_last_accuracy_and_a_curve_with_errors(tmp_path):
    (tmp_path / "comparison.json").write_text(json.dumps(COMPARISON))
    first, second = gather_comparison(tmp_path)
    (row,), (curve,) = first.rows, first.accuracies
    assert (first.name, second.name) == ("FirstTokens 10×", "RandomVectors 10×")
    assert (row.accuracy, row.compression, row.training_s) == (0.75, 10.0, 12.0)
    assert (curve.steps, curve.values, curve.errors) == ([0, 20, 100], [0.25, 0.25, 0.75], [0.05, 0.05, 0.0])


@pytest.mark.parametrize("content", ["[]", "{}", '{"rows": [1]}', '{"rows": [{"strategy": "a"}]}', "\x00"])
def test_a_comparison_that_none_is_is_named(tmp_path, content):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ReportError, match="comparison.json is no comparison"):
        gather(tmp_path)


def test_what_cannot_be_read_is_left_out_and_said(run_folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run, ignore=shutil.ignore_patterns("checkpoints"))
    (run / "chunk_scores.json").write_text("[{}]")
    (run / "cartridge" / "cartridge.json").write_text("{")
    (run / "evaluations" / "other.json").write_text("[]")
    part = next((run / "recording").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-20])
    main(["report", str(run)])
    told = capsys.readouterr().out
    for name in ("chunk_scores.json", "cartridge.json", "other.json", part.name):
        assert any(name in line for line in told.splitlines() if line.startswith("left out: ")), name


def test_nothing_to_report_on_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert "holds no run: give the folder of a run" in refused(capsys, tmp_path)
    assert "x.json is no evaluation" in refused(capsys, tmp_path / "x.json")
    assert "there is no such file or folder" in refused(capsys, tmp_path / "nowhere")
    assert "must end in .html" in refused(capsys, tmp_path, "--out=page.txt")


@pytest.mark.parametrize("command", [["report", "."], ["demo"], ["compare-inits"]])
def test_without_the_extra_it_is_named_before_any_work(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(SystemExit):
        main(command)
    assert "pip install 'lit_cartridges[report]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
