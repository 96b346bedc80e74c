"""LongHealth's table on a made-up miniature and a tiny model."""

from __future__ import annotations

import json

import pytest

from lit_cartridges.cli import main
from lit_cartridges.reproductions.result import Result
from tests.evals.test_tasks import benchmark


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "benchmark_v5.json"
    path.write_text(json.dumps(benchmark()))
    return path


def test_it_asks_samples_and_says_which_file_it_was(file, tmp_path, model_folder, capsys):
    options = {
        "path": file,
        "patients": "[patient_01,patient_02]",
        "model": model_folder,
        "num_tokens": "[]",
        "samples": 3,
        "max_new_tokens": 4,
        "folder": tmp_path / "run",
        "device": "cpu",
    }
    command = [
        "reproduce",
        "longhealth",
        "--quick",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    main(command)
    told = capsys.readouterr()
    assert "(The file's sha256 is" in told.out
    assert "no_context" in told.out and "init from random tokens" in told.out
    result = Result.read(tmp_path / "run" / "result.json")
    assert result.quick and result.settings["samples"] == 3 and result.settings["temperature"] == 0.3
    rows = {one.row: one for one in result.figures}
    assert rows["no_context"].num_kv_tokens == 0 and rows["truncated_icl"].num_kv_tokens > 0
    assert rows["no_context"].mean == 0.0, "replies without tags choose the first option, which is wrong here"
    main(command)  # from its files
    assert Result.read(tmp_path / "run" / "result.json") == result


def test_a_wrong_table_or_setting_is_refused_in_one_line(file, model_folder, capsys):
    given = [f"--path={file}", f"--model={model_folder}"]
    for args, why in (
        (["nohealth"], "there is no table 'nohealth'; did you mean longhealth? there are"),
        (["longhealth", *given, "--samples=0"], "--samples=0 must be at least 1"),
        (["longhealth", *given, "--patients=[x]"], "patients=['x'] are not in"),
        (["longhealth", *given, "--temperature=0"], "samples=8, --temperature=0: samples above 1"),
        (["longhealth"], "--path: must be given"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["reproduce", *args])
        told = capsys.readouterr().err
        assert end.value.code == 2 and why in told and told.count("\n") == 1, told


def test_the_tables_are_listed(capsys):
    main(["reproduce"])
    assert "longhealth\n    Questions about the records of ten patients." in capsys.readouterr().out
