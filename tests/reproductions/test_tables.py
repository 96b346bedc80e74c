"""Every table of questions on made-up miniatures and a tiny model, from its command to its page."""

from __future__ import annotations

import json
import math

import pytest

from lit_cartridges.cli import main
from lit_cartridges.evals.asked import answer_ids
from lit_cartridges.evals.evaluate import evaluate
from lit_cartridges.evals.systems import no_context
from lit_cartridges.reproductions.result import Result
from lit_cartridges.reproductions.tables import TABLES
from tests.evals.test_quality_and_qasper import qasper_files, quality_file
from tests.evals.test_translation import kalamang_files, mtob_files

SMALL = {"num_tokens": "[]", "systems": "[no_context]", "max_new_tokens": 4, "device": "cpu"}


def run(name, folder, model, **options) -> Result:
    given = {**SMALL, "model": model, "folder": folder / "run", **options}
    main(["reproduce", name, "--quick", *(f"--{key}={value}" for key, value in given.items())])
    return Result.read(folder / "run" / "result.json")


@pytest.mark.parametrize("name", ["kalamang", "mtob"])
def test_translations_both_ways(name, tmp_path, model_folder, capsys):
    files = kalamang_files(tmp_path / "k")
    given = {"path": mtob_files(tmp_path / "m")} if name == "mtob" else {**files, "chapters": "[01A.tex]"}
    result = run(name, tmp_path, model_folder, num_questions=3, samples=2, temperature=1.0, **given)
    told = capsys.readouterr().out
    assert "Kalamang → English" in told and "33.5" in told
    assert name == "mtob" or "Kalamang, our split" in told
    assert [one.column for one in result.figures] == ["Kalamang → English", "English → Kalamang"]
    assert all(one.num_questions == 3 and 0 <= one.mean <= 100 for one in result.figures)


def test_each_article_has_a_context_of_its_own(tmp_path, model_folder):
    file = quality_file(tmp_path / "dev.jsonl")
    options = {"systems": "[icl]", "articles": "[7,8]", "num_questions": "null", "max_context_tokens": "null"}
    (figure,) = run("quality", tmp_path, model_folder, path=file, **options).figures
    assert figure.num_questions == 4 and "standard_error_over_groups" not in figure.facts, "two articles"
    assert figure.num_kv_tokens > 0


def test_log_perplexity_is_over_tokens(tmp_path, model_folder):
    files = qasper_files(tmp_path)
    (figure,) = run("qasper", tmp_path, model_folder, papers='["1"]', max_new_tokens=1, **files).figures
    table = TABLES["qasper"](**files, papers=["1"], model=model_folder, num_tokens=[], systems=["no_context"])
    found = evaluate(table.model, table.renderer, no_context(), table.task, max_new_tokens=1)
    assert figure.mean == pytest.approx(-found.answer_log_likelihood, abs=1e-5)
    lengths = [len(answer_ids(table.renderer, one.answer)) for one in table.task.questions()]
    assert len(set(lengths)) == 2 and not math.isclose(
        figure.mean, -sum(one.log_likelihood for one in found.replies) / 2, abs_tol=1e-6
    ), "answers of unequal lengths: the mean over questions is another one"
    assert TABLES["qasper"].higher_is_better is False


@pytest.mark.thorough
def test_a_cartridge_is_trained_once_and_asked(tmp_path, model_folder):
    file = quality_file(tmp_path / "dev.jsonl")
    file.write_text(file.read_text().replace("It was blue.", "w1 w2 w3 " * 40))
    study = {"min_chunk_tokens": 20, "max_chunk_tokens": 40, "question_max_tokens": 8, "answer_max_tokens": 8}
    options = [f"--data.source.{name}={value}" for name, value in study.items()]
    given = {"articles": "[7]", "num_tokens": "[8]", "steps": 2, "fit": json.dumps(options)}
    (figure,) = run("quality", tmp_path, model_folder, path=file, systems="[]", **given).figures
    assert figure.row == "cartridge, 8 positions" and figure.num_kv_tokens == 8
    place = tmp_path / "run" / "trainings" / "7_8" / "cartridge"
    before = place.stat().st_mtime_ns
    for cell in (tmp_path / "run" / "cells").iterdir():
        cell.unlink()
    (again,) = run("quality", tmp_path, model_folder, path=file, systems="[]", **given).figures
    assert place.stat().st_mtime_ns == before and again.mean == figure.mean
    assert again.facts["training_s"] == figure.facts["training_s"] > 0
