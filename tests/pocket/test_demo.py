"""The demo, end to end: a few steps of every training, on a text of the user's own."""

from __future__ import annotations

import json

import pytest

from lit_cartridges.cli import main
from lit_cartridges.pocket.demo.plan import make_runs, make_texts
from lit_cartridges.pocket.world import World


@pytest.mark.slow
def test_it_trains_asks_and_reports(tmp_path, capsys):
    text = tmp_path / "mine.txt"
    text.write_text(World(5, held_out=True).corpus(240).text)
    folder, figures = tmp_path / "demo", tmp_path / "figures.json"
    main(["demo", f"--corpus={text}", f"--folder={folder}", f"--json={figures}", "--share=0.004"])
    told = json.loads(figures.read_text())
    assert told == json.loads((folder / "report.json").read_text())
    by_name = {row["system"]: row for row in told["rows"]}
    positions = {name: row["num_kv_tokens"] for name, row in by_name.items()}
    length = len(text.read_text().split())
    assert positions["a ICL"] == length + 2 and positions["a no context"] == 0  # <bos> <system> and the text
    assert [positions[f"a self-study {c}×"] for c in (10, 20, 40)] == [length // c for c in (10, 20, 40)]
    assert by_name["a ICL"]["accuracy"] > by_name["a no context"]["accuracy"]
    assert all(row["training_s"] > 0 for name, row in by_name.items() if "self-study" in name)
    page = (folder / "report.html").read_text()
    assert all(name in page for name in by_name)
    assert (
        page.count('<script type="application/json">') == 5
    )  # compression, accuracy; the corpus of three runs
    for row in by_name.values():
        assert f"{row['accuracy']:.3f} ± {row['accuracy_standard_error']:.3f}" in page
    shown = capsys.readouterr().out
    assert "accuracy ± s.e." in shown and "a next-token 10×" in shown


def test_the_plan_has_three_texts_and_shares_conversations_within_a_text(tmp_path):
    texts = make_texts(tmp_path, None, seed=1, short_tokens=1500, long_tokens=3000)
    words = {text.name: set(text.path.read_text().split()) for text in texts}
    assert [text.name for text in texts] == ["a", "b", "long"]
    assert 1400 < texts[0].num_tokens <= 1500 < 2800 < texts[2].num_tokens <= 3000
    names = {"a": set(), "b": set()}
    for name, found in names.items():
        found |= {question.prompt for question in texts["ab".index(name)].task(40).questions()}
    assert not names["a"] & names["b"] and words["a"] != words["b"]
    runs = make_runs(texts, tmp_path)
    recordings = {
        run.name: [a for a in run.arguments() if a.startswith("--data.source.recording")] for run in runs
    }
    assert recordings["a self-study 10×"] == recordings["a self-study 40×"] != recordings["b self-study 10×"]
    assert not recordings["a next-token 10×"]


def test_bad_input_is_told_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("the city of Paris is big .")
    for options, told in (
        ([f"--corpus={tmp_path / 'mine.txt'}"], "'Paris'"),
        (["--corpus=nowhere.txt"], "there is no such file"),
        (["--share=0"], "--share=0"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["demo", f"--folder={tmp_path / 'demo'}", *options])
        assert end.value.code == 2
        assert told in capsys.readouterr().err


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["demo", f"--folder={tmp_path}"])
    assert "holds something that is no demo's" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").read_text() == "mine"
