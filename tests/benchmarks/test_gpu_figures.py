"""All figures of a card in one call, in the tiny mode on a CPU: parts, budgets, errors, the file. Nothing depends on speed."""

from __future__ import annotations

import json
import math
import re
import time

import pytest
import torch

from benchmarks import gpu_figures
from benchmarks._flex_packing import FlexSide
from benchmarks._gpu_card import Card, datasheet_per_s
from benchmarks._gpu_page import BEGIN, END
from benchmarks._gpu_part import Part, Timing, run_part
from benchmarks._models import random_conversations, random_llama, random_prefix
from benchmarks._training_sides import OurSide
from tests.benchmarks.test_scripts import _keep_threads  # noqa: F401  the fixture is used by being here

pytestmark = pytest.mark.filterwarnings("default:.*past_key_values.*:FutureWarning")
NEEDED = 2**60  # bytes that no machine has


def figures_of(tmp_path, *options, device="cpu", **parts):
    path = tmp_path / "figures.json"
    returned = gpu_figures.main(["--device", device, "--json", str(path), *options], **parts)
    figures = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} in the file"))
    assert figures == json.loads(json.dumps(returned))
    return figures


def require_all_parts(results):
    assert list(results) == list(gpu_figures.PARTS)
    for part in results.values():
        assert part["rows"] and part["seconds"] <= part["budget_s"]
        for row in part["rows"].values():
            assert all(x is None or isinstance(x, str) or (math.isfinite(x) and x >= 0) for x in row.values())


@pytest.mark.thorough
def test_every_part_measures_and_says_so_at_once(tmp_path, capsys):
    pytest.importorskip("peft")
    figures = figures_of(tmp_path)
    require_all_parts(figures["results"])
    assert figures["tiny"] and figures["versions"]["torch"]
    missing = {name: part["missing"] for name, part in figures["results"].items() if part["missing"]}
    assert missing == {
        "training": {"FlexAttention packing": "FlexAttention has no backward pass on a CPU"},
        "generation": {
            "share of vLLM's tokens a second, wanted 50%": "needs a server: benchmarks.openai_teacher"
        },
    }, "everything else runs on a CPU"
    training = figures["results"]["training"]["rows"]
    assert {"ours, rows of 128", "ours, rows of 32", "PEFT's example, padded"} < set(training)
    assert figures["results"]["generation"]["rows"]["conversations that agree"]["same_share"] == 1.0
    wanted = [row for part in figures["results"].values() for row in part["rows"].values()]
    wanted = {key: value for row in wanted for key, value in row.items() if key.startswith("wanted")}
    assert set(wanted) == {
        "wanted_times", "wanted_at_most_times", "wanted_share", "wanted_at_most_share", "wanted_below_tokens",
    }  # fmt: skip
    serving = figures["results"]["serving"]["rows"]
    assert serving["corpus of 128: cartridge, one for all rows ÷ corpus"]["papers_times"] == 26.4
    assert serving["corpus of 128: cartridge, one per row"]["held_tokens"] == round(128 / 38.6)
    printed = capsys.readouterr().out
    lines, tables = printed.split("\n\n**limits**", 1)
    for part in figures["results"].values():
        for name in part["rows"]:
            assert f" · {name}: " in lines and f"| {name}" in tables


@pytest.mark.gpu
def test_every_part_measures_on_a_card(tmp_path):
    pytest.importorskip("peft")
    results = figures_of(tmp_path, "--tiny", device="cuda")["results"]
    require_all_parts(results)
    assert "FlexAttention packing" in results["training"]["rows"]


def test_parts_are_chosen_and_run_in_their_order(tmp_path):
    figures = figures_of(tmp_path, "--parts", "prefill", "limits")
    assert list(figures["results"]) == ["prefill", "limits"]
    with pytest.raises(SystemExit):
        gpu_figures.main(["--parts", "weather"])


def test_a_page_takes_the_figures_of_a_file_and_keeps_the_rest(tmp_path, capsys):
    page, file = tmp_path / "gpu.md", tmp_path / "figures.json"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")

    def good(part: Part) -> None:
        part.row("one", seconds=2.0, wanted_times=None)
        part.miss("other", "out of memory")

    figures = figures_of(tmp_path, parts={"good": (good, 5.0)})
    for spoilt, message in ((figures, "tiny sizes"), ({**figures, "tiny": False}, "has no lines")):
        file.write_text(json.dumps(spoilt))
        target = page if spoilt["tiny"] else tmp_path / "other.md"
        (tmp_path / "other.md").write_text("nothing\n")
        with pytest.raises(ValueError, match=message):
            gpu_figures.main(["--of", str(file), "--page", str(target)])
    gpu_figures.main(["--of", str(file), "--page", str(page)])
    before, rest = page.read_text().split(BEGIN)
    inner, after = rest.split(END)
    assert (before, after) == ("before\n\n", "\n\nafter\n") and "old" not in inner
    assert "| one | " in inner and "- other: out of memory" in inner and "torch " in inner
    capsys.readouterr()


def test_a_part_that_fails_is_said_and_the_next_goes_on(tmp_path, capsys):
    def bad(part: Part) -> None:
        part.row("first", seconds=1.0)
        raise ValueError("no such kernel\nsecond line")

    def hungry(part: Part) -> None:
        torch.empty(NEEDED, dtype=torch.uint8)

    def good(part: Part) -> None:
        part.row("second", tokens_per_s=2.0)

    parts = {"bad": (bad, 5.0), "hungry": (hungry, 5.0), "good": (good, 5.0)}
    results = figures_of(tmp_path, parts=parts)["results"]
    assert results["bad"]["rows"] == {"first": {"seconds": 1.0}}, "what was known stays"
    assert results["bad"]["missing"] == {"the rest": "ValueError: no such kernel"}
    assert results["hungry"]["missing"] == {"the rest": "out of memory"}
    assert results["good"]["rows"] == {"second": {"tokens_per_s": 2.0}}
    printed = capsys.readouterr().out
    assert "bad · the rest: not measured, ValueError: no such kernel\n" in printed
    assert "- the rest: out of memory\n" in printed
    assert re.search(r"\*\*hungry\*\*, \d+ s: nothing measured\.", printed)


def test_the_budget_ends_a_part_and_the_total_ends_them_all(tmp_path):
    def endless(part: Part) -> None:
        part.row("begun", seconds=0.0)
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pytest.fail("the end of the budget is no error that a part may swallow")

    begun = time.perf_counter()
    parts = {"endless": (endless, 0.2), "again": (endless, 60.0)}
    results = figures_of(tmp_path, "--total-s", "4", parts=parts)["results"]
    assert time.perf_counter() - begun < 40
    assert results["endless"]["missing"] == {"the rest": "the budget of 0.2 s is over"}
    assert 0 < results["again"]["budget_s"] < 3.8 and list(results["again"]["rows"]) == ["begun"]


def test_a_race_stops_at_the_budget_and_names_what_it_left_out():
    part = Part("any", Card("cpu", tiny=False), budget_s=4.0)
    runs = {"short": 0, "long": 0, "hungry": 0}

    def short() -> None:
        runs["short"] += 1
        time.sleep(1.0)

    def long() -> None:
        runs["long"] += 1

    def hungry() -> None:
        runs["hungry"] += 1
        torch.empty(NEEDED, dtype=torch.uint8)

    calls = {"short": short, "long": long, "hungry": hungry}
    told: list[str] = []
    timings = part.race(
        calls, lambda name, _: told.append(name), repeats=1000, warm_ups=0, expected_s={"long": 60.0}
    )
    assert list(timings) == told == ["short"] and len(timings["short"].seconds) == runs["short"] < 5
    assert timings["short"].median_s >= 1.0
    assert runs["long"] == 0 and part.missing["long"].startswith("60.0 s needed, ")
    assert runs["hungry"] == 1 and part.missing["hungry"] == "out of memory"


def test_what_is_known_is_told_when_the_budget_ends_within_a_call():
    def stuck(part: Part) -> None:
        def report(name: str, timing: Timing) -> None:
            part.row(name, seconds=timing.median_s)

        turns = iter((0.0, 100.0))
        part.race({"call": lambda: time.sleep(next(turns)), "slow": lambda: None}, report, warm_ups=0)

    part = run_part(
        "stuck", stuck, Card("cpu", tiny=False), 8.0
    )  # what a busy machine takes around two calls, and more
    assert set(part.rows) == {"call", "slow"} and list(part.missing) == ["the rest"]


def test_a_part_may_be_run_outside_of_the_main_thread():
    from concurrent.futures import ThreadPoolExecutor

    def small(part: Part) -> None:
        part.row("one", tokens=1)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(run_part, "small", small, Card("cpu", tiny=True), 5.0).result().rows


def test_flex_attention_reads_the_same_as_ours():
    model = random_llama("tiny")
    prefix = random_prefix(model, 16)
    examples = random_conversations(3, vocabulary=512, shortest=8, longest=24)
    ours, flex = OurSide(model, 16, prefix), FlexSide(model, prefix)
    before = model.config._attn_implementation
    torch.testing.assert_close(
        flex.answer_losses(examples), ours.answer_losses(examples), rtol=1e-4, atol=1e-4
    )
    assert model.config._attn_implementation == before


def test_rows_of_any_length_give_one_gradient():
    model = random_llama("tiny")
    prefix = random_prefix(model, 8)
    examples = random_conversations(6, vocabulary=512, shortest=8, longest=24)
    trained = []
    for tokens in (None, 32):
        side = OurSide(model, 8, tuple([x.clone() for x in half] for half in prefix), tokens)
        side.step(examples)
        trained.append([p.detach() for p in side.lit.cartridge.parameters()])
    for whole, parts in zip(*trained, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla T4", None),
    ],
)
def test_the_datasheet_is_the_cards_own(name, tflops):
    assert datasheet_per_s(name) == (tflops and tflops * 1e12)
