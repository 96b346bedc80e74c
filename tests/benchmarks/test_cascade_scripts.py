"""The cascade's scripts run at tiny sizes and read their plots rightly. Nothing here depends on speed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks import cascade_ablation, cascade_decode, cascade_kept, cascade_prefill, cascade_reuse
from benchmarks._plots import crossing, loglog_slope
from tests.benchmarks.test_scripts import _keep_threads, run  # noqa: F401  the fixture is used by being here


@pytest.mark.thorough
def test_prefill(tmp_path, capsys):
    plot = tmp_path / "plots" / "prefill.svg"
    results = run(cascade_prefill, tmp_path, "--plot", str(plot))["results"]
    assert [r["part"] for r in results] == ["layer", "model"]
    for result in results:
        assert set(result["sides"]) == {"cascade", "dense (SDPA)"}
        for points in result["sides"].values():
            assert [p["tokens"] for p in points] == [32, 64, 128]
            assert all(p["seconds"] > 0 and p["peak_bytes"] >= 0 for p in points)
    assert "<svg" in plot.read_text()
    printed = capsys.readouterr().out
    assert "**One layer**" in printed and "**Whole model**" in printed and "Slope" in printed


def test_a_side_that_would_exceed_the_budget_stops_and_is_compared_where_it_went(tmp_path):
    (result,) = run(cascade_prefill, tmp_path, "--parts", "layer", "--budget-s", "0")["results"]
    lengths = {name: len(points) for name, points in result["sides"].items()}
    assert lengths == {"cascade": 1, "dense (SDPA)": 1}, "the first length is always measured"
    assert result["readings"]["against"]["dense (SDPA)"]["longest_common_tokens"] == 32


@pytest.mark.thorough
@pytest.mark.parametrize("side", ["read_dense", "read_cascade"])
def test_a_side_whose_memory_runs_out_stops_and_the_other_goes_on(tmp_path, capsys, monkeypatch, side):
    reads = getattr(cascade_prefill, side)

    def hungry(*args, **options):
        if args[-1].shape[1] >= 64:
            torch.empty(2**60, dtype=torch.uint8)
        return reads(*args, **options)

    monkeypatch.setattr(cascade_prefill, side, hungry)
    (result,) = run(cascade_prefill, tmp_path, "--parts", "layer")["results"]
    name = {"read_dense": "dense (SDPA)", "read_cascade": "cascade"}[side]
    assert result["out_of_memory_at"] == {name: 64}
    assert sorted(len(points) for points in result["sides"].values()) == [1, 3]
    printed = capsys.readouterr().out
    assert f"Memory ran out at 64 tokens: {name}." in printed and "\n| 128 " in printed


def test_decode_and_scores(tmp_path, capsys):
    figures = run(cascade_decode, tmp_path)
    assert [(r["read_tokens"], r["held_tokens"]) for r in figures["results"]] == [(64, 20), (128, 20)]
    assert all(s > 0 for r in figures["results"] for s in r["seconds_per_token"].values())
    assert set(figures["scores"]["seconds"]) == {"ours", "no scores (SDPA)", "second softmax"}
    assert "tokens read before" in capsys.readouterr().out


def test_ablation_differs_in_one_setting_at_a_time(tmp_path, capsys):
    options = ("--settings", "eager_fill", "scores", "--documents", "2", "--corpora", "1", "--samples", "1")
    results = run(cascade_ablation, tmp_path, *options)["results"]
    default, *others = results
    assert [(r["setting"], r["value"]) for r in others] == [
        ("scores", "at random"), ("scores", "value words first"), ("scores", "values, then names"),
        ("eager_fill", "False"),
    ]  # fmt: skip
    for other in others:
        different = {key for key, value in other["cache"].items() if value != default["cache"][key]}
        assert different == ({"eager_fill"} if other["setting"] == "eager_fill" else set())
        assert other["difference"] == pytest.approx(other["nats_per_token"] - default["nats_per_token"])
    random, values_first = others[:2]
    # Whoever knows that value words will be asked for, answers; whoever keeps any words does not.
    assert values_first["questions"] > random["questions"] + 0.2
    assert values_first["passkey"] > random["passkey"] + 0.2
    assert "| eager_fill" in capsys.readouterr().out


def test_kept_tokens_are_those_that_the_scores_prefer(tmp_path):
    results = {(r["scores"], r["layer"]): r for r in run(cascade_kept, tmp_path)["results"]}
    for layer in (0, 1):
        first, random = results["value words first", layer], results["random", layer]
        assert first["value kept"] > 0.7 > 0.5 > random["value kept"]
        assert first["facts with value"] >= first["heads with value"] > random["heads with value"]


def test_slopes_are_exponents():
    xs = [1024, 2048, 4096, 8192]
    assert loglog_slope(xs, [3e-9 * x**2 for x in xs]) == pytest.approx(2)
    assert loglog_slope(xs, [0.1 * x for x in xs]) == pytest.approx(1)
    assert math.isnan(loglog_slope([4], [1.0]))


def test_the_crossing_is_where_the_lines_of_the_plot_meet():
    xs = [1024, 2048, 4096, 8192]
    ours, theirs = [3000 * x for x in xs], [x * x for x in xs]
    assert crossing(xs, ours, theirs) == pytest.approx(3000)
    assert crossing(xs, theirs, ours) is None, "ours is not the smaller at the end"
    assert crossing(xs, [x / 2 for x in theirs], theirs) is None, "ours is the smaller everywhere"


def test_reuse_adds_up_to_the_whole_difference(tmp_path):
    assert cascade_reuse.distances([5, 6, 5, 6, 7], 1).tolist() == [0, 2, 2, 0]
    assert cascade_reuse.distances([5, 6, 5, 6, 7], 2).tolist() == [0, 0, 2, 0]
    options = ("--documents", "2", "--folder", str(tmp_path / "kept"))
    one, two = run(cascade_reuse, tmp_path, *options)["results"]
    for document in range(2):
        mine, theirs = (np.load(tmp_path / f"kept/{s}_32_{document}_256.npy") for s in cascade_reuse.SYSTEMS)
        whole = (theirs - mine)[32 + 4 + 16 :].astype(float).mean()
        for result in (one, two):
            rows = [values[document] for values in result["groups"].values()]
            assert sum(share for share, _, _ in rows) == pytest.approx(1)
            assert sum(above for _, _, above in rows) == pytest.approx(whole, abs=1e-6)
    assert run(cascade_reuse, tmp_path, *options)["results"] == [one, two]  # from what is kept
