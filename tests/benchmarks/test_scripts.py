"""Every script runs at tiny sizes, compares like with like, and writes its figures. Nothing here depends on speed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import attention_ways, generation_throughput, long_prefill, serving, training_throughput
from benchmarks._models import random_conversations, random_llama
from lit_cartridges.attention.parts import RowsPart
from lit_cartridges.models.position_limit import max_positions

# PEFT, a peer, hands caches over by their name before transformers 5.24.
pytestmark = pytest.mark.filterwarnings("default:.*past_key_values.*:FutureWarning")


@pytest.fixture(autouse=True)
def _keep_threads():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(script, tmp_path: Path, *options: str) -> dict:
    path = tmp_path / "figures.json"
    returned = script.main(["--device", "cpu", "--quick", "--json", str(path), *options])
    figures = json.loads(path.read_text())
    assert figures["versions"]["torch"] and figures["threads"] == 1
    assert figures["results"] == json.loads(json.dumps(returned["results"]))
    return figures


def test_training_throughput(tmp_path, capsys):
    pytest.importorskip("peft")
    options = (
        "--size",
        "tiny",
        "--num-tokens",
        "8",
        "--lengths",
        "4",
        "12",
        "--conversations",
        "3",
        "--no-memory",
    )
    (result,) = run(training_throughput, tmp_path, *options)["results"]
    assert set(result["sides"]) == {"ours", "peft", "peft-1"}
    assert (result["tokens"], result["padded_tokens"]) == (4 + 8 + 12, 3 * 12)
    assert result["largest_loss_difference_nats"] < 1e-3
    assert all(math.isfinite(x) and x > 0 for x in result["breakdown_cpu_s"].values())
    table = capsys.readouterr().out
    assert "PEFT, padded batch" in table and "attention to the cartridge: backward" in table


@pytest.mark.parametrize("side", ["ours", "peft"])
def test_memory_of_a_side(side, capsys):
    pytest.importorskip("peft")
    options = [
        "--size",
        "tiny",
        "--num-tokens",
        "8",
        "--lengths",
        "4",
        "12",
        "--conversations",
        "2",
        "--quick",
    ]
    figures = training_throughput.main(["--device", "cpu", "--memory-of", side, *options])
    assert figures["peak_bytes"] >= 0
    assert json.loads(capsys.readouterr().out) == figures


def test_sides_that_do_different_work_are_refused():
    import torch

    class Fixed:
        def __init__(self, loss: float) -> None:
            self.loss = loss

        def answer_losses(self, examples: object) -> torch.Tensor:
            return torch.full((3,), self.loss)

    require = training_throughput._require_same_losses
    assert require({"a": Fixed(1.0), "b": Fixed(1.0)}, [], "float32") == 0
    for wrong in (1.1, math.nan):
        with pytest.raises(AssertionError, match="do not do the same work"):
            require({"a": Fixed(1.0), "b": Fixed(wrong)}, [], "float32")


def test_a_teachers_tokens_are_distinct_and_in_the_vocabulary():
    for vocabulary in (20, 128_256):
        for example in random_conversations(3, vocabulary=vocabulary, shortest=10, longest=99, top_k=20):
            assert example.top_ids.shape == (len(example.target_ids), 20)
            assert all(len(set(row)) == 20 for row in example.top_ids.tolist())
            assert example.top_ids.min() >= 0 and example.top_ids.max() < vocabulary


def test_random_models_read_a_million_tokens():
    assert max_positions(random_llama("tiny").config) > 2**20


def test_attention_ways(tmp_path):
    results = run(attention_ways, tmp_path, "--num-tokens", "5", "9", "--lengths", "3", "17")["results"]
    assert [r["num_tokens"] for r in results] == [5, 9]
    for result in results:
        assert max(result["largest_difference"].values()) < 1e-4
        assert result["mask_bytes"] == result["tokens"] * (result["num_tokens"] + result["tokens"])


def test_long_prefill(tmp_path, capsys):
    results = run(long_prefill, tmp_path, "--lengths", "40", "50")["results"]
    assert [r["tokens"] for r in results] == [40, 50]
    for result in results:
        assert set(result["seconds"]) == set(result["ours_times"]) == set(result["peak_bytes"])
        assert len(result["seconds"]) == 3 and result["ours_times"][long_prefill.OURS] == 1.0
        assert result["kv_bytes"] == result["tokens"] * 2 * 2 * 2 * 16 * 4
    assert capsys.readouterr().out.count("ours ×") >= 2
    run(long_prefill, tmp_path, "--sides", long_prefill.ONE_PASS)


def test_long_prefill_compares_the_sides(tmp_path, monkeypatch):
    monkeypatch.setattr(long_prefill, "_dense_part", lambda *_: RowsPart(causal=False))
    with pytest.raises(AssertionError, match="not close"):
        run(long_prefill, tmp_path)


def test_generation_throughput(tmp_path):
    options = (
        "--chunk-tokens",
        "16",
        "--conversations",
        "2",
        "--question-tokens",
        "3",
        "--answer-tokens",
        "4",
    )
    figures = run(generation_throughput, tmp_path, *options, "--steps", "0", "--one-by-one", "1")
    (result,) = figures["results"]
    assert result["same_conversations"] == 1.0
    assert len(result["ways"]) == 3 and figures["settings"]["one_by_one"] == 1
    assert all(rate > 0 for rate in figures["several_chunks"]["conversations_per_s"].values())


@pytest.mark.slow
def test_the_split_of_a_training_run(tmp_path):
    options = (
        "--chunk-tokens",
        "16",
        "--conversations",
        "2",
        "--question-tokens",
        "3",
        "--answer-tokens",
        "4",
    )
    run_ = run(generation_throughput, tmp_path, *options, "--steps", "2")["training_run"]
    assert run_["steps"] == 2 and run_["tokens"] > run_["answer_tokens"] > 0
    assert all(seconds > 0 for seconds in run_["wall_s"].values())


def test_serving(tmp_path):
    options = (
        "--corpus-tokens",
        "40",
        "--cartridge-tokens",
        "6",
        "--question-tokens",
        "3",
        "--new-tokens",
        "2",
    )
    per_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, width, bytes
    figures = run(serving, tmp_path, *options, "--memory-bytes", str(52 * per_token), "--max-rows", "4")
    assert [row["rows"] for row in figures["throughput"]] == [0, 3, 3], "with logits, which count here"
    assert {row["times_corpus"] for row in figures["throughput"]} == {None}
    rows = {row["way"]: row for row in figures["results"]}
    assert list(rows) == ["ICL", "ICL, prefill kept", "cartridge, a tenth", "cartridge, 6"]
    assert [row["prefix_tokens"] for row in rows.values()] == [40, 40, 4, 6]
    assert [row["batch_1_bytes"] for row in rows.values()] == [n * per_token for n in (45, 45, 9, 11)]
    # 52 positions hold the corpus and 2 questions of 5, or a corpus with its question once; a cartridge takes 4 rows.
    assert [row["rows"] for row in rows.values()] == [2, 2, 4, 4]
    assert [row["rows_unshared"] for row in rows.values()] == [1, 1, 4, 4]
    assert rows["ICL"]["batch_1_s"] > rows["ICL, prefill kept"]["batch_1_s"]
    assert all(row["batch_1_s"] > 0 and row["question_s"] > 0 for row in rows.values())


def test_tokens_per_second_of_the_largest_batch(tmp_path, capsys):
    options = ("--corpus-tokens", "64", "--new-tokens", "2", "--max-rows", "4", "--repeats", "2")
    icl, own, one = run(serving, tmp_path, *options)["throughput"]
    assert [row["held_tokens"] for row in (icl, own, one)] == [64, 2, 2]
    assert [row["cache_bytes"] // (2 * 2 * 2 * 16 * 4) for row in (icl, own, one)] == [
        4 * 66,
        4 * 4,
        2 + 4 * 2,
    ]
    assert icl["times_corpus"] is None and all(row["deviation_per_s"] >= 0 for row in (icl, own, one))
    assert own["times_corpus"] == pytest.approx(own["tokens_per_s"] / icl["tokens_per_s"])
    assert "| cartridge, one for all rows |" in capsys.readouterr().out.replace("  ", "")


def test_a_corpus_that_does_not_fit_has_no_batch(tmp_path):
    options = (
        "--corpus-tokens",
        "40",
        "--cartridge-tokens",
        "6",
        "--question-tokens",
        "3",
        "--new-tokens",
        "2",
    )
    figures = run(serving, tmp_path, *options, "--memory-bytes", "4096")
    rows = figures["results"]
    assert [row["rows"] for row in rows] == [0, 0, 0, 0] == [*(r["rows"] for r in figures["throughput"]), 0]
    assert rows[0]["question_s"] is None
