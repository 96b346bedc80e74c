"""The tables of made texts on a tiny model: every cell is there, scored as its task is, and trained cartridges stand beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_cartridges.cli import main
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems import ContextTooLong
from lit_cartridges.reproductions.result import Result
from lit_cartridges.reproductions.tables.kvpress import KvpressTable
from lit_cartridges.reproductions.tables.ruler import RulerTable
from tests.tiny_run import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def haystack(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "speech.txt"
    path.write_text(" ".join(f"w{i} w{i + 1} w{i + 2}." for i in range(60)))
    return path


def run(name: str, folder: Path, **options: object) -> Result:
    typed = [f"--{key}={value}" for key, value in {"device": "cpu", "folder": folder, **options}.items()]
    main(["reproduce", name, "--quick", *typed])
    return Result.read(folder / "result.json")


def test_ruler_has_a_cell_for_every_system_and_kind(model, haystack, tmp_path, capsys):
    kinds = ["niah_single_2", "niah_multivalue", "fwe"]
    result = run(
        "ruler",
        tmp_path / "run",
        model=model,
        haystack=haystack,
        kinds=json.dumps(kinds),
        length_tokens=420,
        questions_per_text=2,
        max_new_tokens=3,
    )
    found = [(one.row, one.column, one.num_questions) for one in result.figures]
    asked = [2 * (1 if kind == "fwe" else 2) for kind in kinds]
    assert found == [
        (row, kind, count) for row in ("icl", "no_context") for kind, count in zip(kinds, asked, strict=True)
    ]
    assert all(0 <= one.mean <= 1 for one in result.figures)
    assert all(one.standard_error is None for one in result.figures), "two texts tell none"
    assert {one.num_kv_tokens > 0 for one in result.figures if one.row == "icl"} == {True}
    told = capsys.readouterr().out
    assert "mean of 13, 4k" in told and "Qwen3-4B" in told


def test_kinds_without_their_files_are_left_out_and_said(model, haystack):
    settings = {"model": model, "recipe": "smollm2_text.yaml"}
    table = RulerTable(**settings, haystack=haystack)
    assert table.columns[:2] == ["niah_single_1", "niah_single_2"] and "qa_1" not in table.columns
    assert "Left out, since their files were not given: qa_1 (squad), qa_2 (hotpot)." in table.notes
    with pytest.raises(SettingError, match="needs hotpot"):
        RulerTable(**settings, kinds=["vt", "qa_2"])


def test_kvpress_has_a_row_for_every_strategy_over_what_is_gone(model, tmp_path):
    result = run(
        "kvpress",
        tmp_path / "run",
        model=model,
        kinds='["niah_single_1", "niah_multikey_2"]',
        inits='["FirstTokens", "AttentionMatching"]',
        ratios="[0.5, 0.75]",
        length_tokens=420,
        contexts=2,
        questions_per_text=2,
        max_new_tokens=3,
    )
    found = {(one.row, one.column): one for one in result.figures}
    assert list(found) == [
        ("icl", "0% gone"),
        ("no_context", "100% gone"),
        *((name, f"{x}% gone") for name in ("FirstTokens", "AttentionMatching") for x in (50, 75)),
    ]
    whole = found["icl", "0% gone"].num_kv_tokens
    for name in ("FirstTokens", "AttentionMatching"):
        for x in (0.5, 0.75):
            one = found[name, f"{100 * x:g}% gone"]
            assert one.x == x and abs(one.num_kv_tokens - whole * (1 - x)) <= 1
            assert one.num_questions == 2 * 2 * 2 and one.facts["seconds_to_make_one"] > 0


def test_kvpress_leaves_out_what_is_longer_than_the_model_may_read(model):
    given = KvpressTable.quick | {"model": model, "length_tokens": 420, "max_context_tokens": 100}
    table = KvpressTable(**given)
    with pytest.raises(ContextTooLong):
        table.measure(table.cells()[0])


@pytest.mark.thorough
def test_kvpress_trains_a_cartridge_for_every_text_and_ratio(model, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "trainer: {accelerator: cpu, max_steps: 1}\n"
        f"model: {{model: {model}, num_tokens: 8, objective: NextToken}}\n"
        "data: {corpus: no.txt, source: {class_path: RawCorpus, init_args: {window_tokens: 32}}, tokens_per_batch: 64}\n"
    )
    result = run(
        "kvpress",
        tmp_path / "run",
        model=model,
        recipe=tmp_path / "recipe.yaml",
        kinds='["niah_single_1"]',
        inits="[]",
        ratios="[0.5]",
        trained="true",
        systems="[no_context]",
        length_tokens=420,
        contexts=1,
        questions_per_text=2,
        max_new_tokens=3,
    )
    (_, one) = result.figures
    assert (one.row, one.column) == ("trained", "50% gone") and one.num_kv_tokens > 50


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"inits": ["FromCartridge"]}, "'FromCartridge' is none of"),
        ({"ratios": [1.0]}, "must be shares below 1"),
        ({"num_tokens": [8]}, "has no place here"),
        ({"systems": ["cascade"]}, "has no place here"),
    ],
)
def test_what_kvpress_cannot_compare_is_refused(settings, told, model):
    with pytest.raises(SettingError, match=told):
        KvpressTable(model=model, recipe="smollm2_text.yaml", **settings)


@pytest.mark.parametrize("score_by", ["ratio", "token_f1"])
def test_mrcr_asks_for_every_reply_of_every_number_of_needles(score_by, model, tmp_path):
    result = run(
        "mrcr",
        tmp_path / "run",
        model=model,
        needles="[2, 3]",
        score_by=score_by,
        contexts=1,
        length_tokens=700,
        max_new_tokens=3,
        max_context_tokens=480,
        systems='["truncated_icl"]',
    )
    assert [(one.column, one.num_questions) for one in result.figures] == [("2 needles", 2), ("3 needles", 3)]
