"""What ``lit-cartridges estimate`` says, against runs: of the tiny model here, of the bundled one as its users run it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.cli import main
from lit_cartridges.commands.estimate import duration, estimate_recipe, told_as_text
from lit_cartridges.conversations.recording import read_conversations
from lit_cartridges.errors import SettingError
from lit_cartridges.models import ModelError, load_model
from tests.tiny_run import SEED_PROMPTS, Curve, save_corpus, save_model, save_recording


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("estimate")
    return {
        "trainer.accelerator": "cpu",
        "trainer.max_steps": "7",
        "trainer.accumulate_grad_batches": "2",
        "trainer.default_root_dir": f"{folder / 'run'}",
        "model.model": save_model(folder / "model"),
        "model.num_tokens": "8",
        "data.corpus": save_corpus(folder / "corpus.txt"),
        "data.source.seed_prompts": json.dumps(SEED_PROMPTS),
        "data.source.min_chunk_tokens": "20",
        "data.source.max_chunk_tokens": "40",
        "data.source.conversations_per_group": "4",
        "data.groups_per_round": "2",
        "data.source.question_temperature": "1.0",
        "data.source.question_max_tokens": "5",
        "data.source.answer_max_tokens": "8",
        "data.source.top_k": "4",
        "data.tokens_per_batch": "40",
    }


def options(recipe: dict[str, str], **more: str) -> list[str]:
    return [f"--{key}={value}" for key, value in (recipe | more).items()]


def tensor_bytes(path: Path) -> int:
    with safe_open(path, framework="pt") as held:
        return sum(held.get_tensor(name).nbytes for name in held.keys())


def test_a_run_is_what_its_estimate_said(recipe, tmp_path):
    told = {"trainer.default_root_dir": f"{tmp_path}", "trainer.logger": "false"}
    cli = CartridgeCLI.run_with(["fit", *options(recipe, **told), "--trainer.callbacks=tests.tiny_run.Curve"])
    (curve,) = [one for one in cli.trainer.callbacks if isinstance(one, Curve)]
    found = estimate_recipe(options(recipe, **told), chip="h100")
    figures, made = found["figures"], read_conversations(tmp_path / "recording")
    assert f"{len(made)} conversations in {tmp_path / 'recording'}" in " ".join(found["assumptions"])
    empty = sum(count for name, count in cli.datamodule._examples.counts.items() if "empty" in name)
    assert figures["conversations"] == len(made) + empty
    assert figures["rows"] == len(curve.batches) == 14
    trained = sum(sum(batch.lengths) for batch in curve.batches)
    assert figures["trained_tokens"] == pytest.approx(trained, rel=0.1)  # 14 rows are few
    generated = sum(len(m.token_ids) for talk in made for m in talk.messages)
    assert figures["generated_tokens_per_conversation"] == pytest.approx(generated / len(made))
    assert figures["cartridge_file_bytes"] == tensor_bytes(tmp_path / "cartridge" / "cartridge.safetensors")
    checkpoint = (tmp_path / "checkpoints" / "last.ckpt").stat().st_size
    assert figures["checkpoint_bytes"] / 3 < checkpoint < figures["checkpoint_bytes"] / 3 + 60_000
    recorded = sum(file.stat().st_size for file in (tmp_path / "recording").glob("*.parquet"))
    assert figures["recording_bytes"] == pytest.approx(recorded * figures["conversations"] / len(made))


def test_weights_are_counted_without_them(recipe):
    model = load_model(recipe["model.model"])
    broken = Path(recipe["model.model"]) / "model.safetensors"
    kept = broken.read_bytes()
    try:
        broken.write_bytes(b"")
        figures = estimate_recipe(options(recipe), chip="h100")["figures"]
    finally:
        broken.write_bytes(kept)
    assert figures["weight_bytes"] == sum(p.nbytes for p in model.parameters())


def test_before_any_conversation_lengths_are_assumed_and_files_are_bounds(recipe):
    found = estimate_recipe(options(recipe), chip="l4")
    assert found["figures"]["generated_tokens_per_conversation"] == 5 + 8
    assert found["figures"]["recording_is_a_bound"]
    text = told_as_text(found)
    assert "at most" in text and "assumed, in each group" in text and "l4: 30.3 TFLOP/s of fp32" in text
    assert "the init (FirstTokens)" in text


def test_more_processes_share_the_groups_and_the_hours(recipe):
    recipe = recipe | {"trainer.max_steps": "64"}
    one, eight = (
        estimate_recipe(options(recipe, **{"trainer.devices": devices}), chip="h100")["figures"]
        for devices in ("1", "8")
    )
    assert eight["rows"] == 8 * one["rows"]
    assert eight["conversations"] == pytest.approx(8 * one["conversations"], rel=0.15)
    assert eight["generating_s"] == pytest.approx(one["generating_s"], rel=0.15)


def test_the_strategy_is_told_without_the_library_that_it_needs(recipe):
    deepspeed = Path("recipes/deepspeed/zero3_offload.yaml").resolve()
    found = estimate_recipe([*options(recipe), f"--config={deepspeed}", "--trainer.devices=8"], chip="h100")
    assert (found["processes"], found["strategy"]) == (8, "offload")
    with pytest.raises(SettingError, match="trainer.strategy='fsdp'"):
        estimate_recipe([*options(recipe), "--trainer.strategy=fsdp"], chip="h100")


def test_the_speed_of_a_served_teacher_is_asked_for_and_not_made_up(recipe):
    served = [
        *options(recipe),
        "--data.source.teacher=OpenAITeacher",
        "--data.source.teacher.base_urls=http://localhost:1/v1",
        "--data.source.teacher.model=m",
    ]
    found = estimate_recipe(served, chip="h100")
    assert found["figures"]["generating_s"] is None and found["figures"]["total_s"] is None
    assert any("--teacher_tokens_per_s" in one for one in found["unknown"])
    assert "not known" in told_as_text(found)
    told = estimate_recipe(served, chip="h100", teacher_tokens_per_s=13)["figures"]
    assert told["generating_s"] == told["conversations"]
    assert told["total_s"] == max(told["generating_s"], told["training_s"])
    local = estimate_recipe(options(recipe), chip="h100", teacher_tokens_per_s=13)
    assert any("of no use" in one for one in local["assumptions"])


def test_conversations_that_are_there_take_no_generating(recipe, tmp_path):
    recorded = save_recording(tmp_path / "recorded.parquet")
    of_another_source = [one for one in options(recipe) if "source" not in one]
    found = estimate_recipe(
        [*of_another_source, "--data.source=Recorded", f"--data.source.path={recorded}"], chip="h100"
    )
    assert found["figures"]["conversations"] == found["figures"]["generating_s"] == 0
    assert "16 conversations in" in " ".join(found["assumptions"])
    raw = [
        *of_another_source,
        "--data.source=RawCorpus",
        "--data.source.window_tokens=30",
        "--model.objective=NextToken",
    ]
    figures = estimate_recipe(raw, chip="h100")["figures"]
    assert figures["conversations_per_row"] == 1 and figures["trained_tokens"] == 14 * 29


def test_a_model_that_is_not_here_is_named(recipe):
    with pytest.raises(
        ModelError, match="model.model='nobody/nothing'.*Hub cannot be reached|nobody/nothing"
    ):
        estimate_recipe([*options(recipe), "--model.model=nobody/nothing"], chip="h100")


def test_too_little_memory_is_said(recipe):
    found = estimate_recipe(options(recipe), chip="h100")
    found["figures"] |= {"fits": False}
    assert "TOO LITTLE" in told_as_text(found)
    large = estimate_recipe([*options(recipe), "--model.num_tokens=100000000"], chip="l4")
    assert not large["figures"]["fits"]


def test_the_command_prints_and_writes(recipe, tmp_path, capsys):
    main(["estimate", *options(recipe), "--chip=auto", f"--json={tmp_path / 'told.json'}"])
    printed = capsys.readouterr().out
    told = json.loads((tmp_path / "told.json").read_text())
    assert "measured just now" in printed and "conversations to make" in printed
    assert told["chip"] == "auto" and told["figures"]["optimizer_steps"] == 7
    assert not Path(recipe["trainer.default_root_dir"]).exists()  # nothing was started


def test_durations_in_one_unit():
    assert [duration(s) for s in (None, 3.2, 119, 150, 9000, 1e6)] == [
        "not known",
        "3 s",
        "119 s",
        "2.5 min",
        "2.5 h",
        "12 d",
    ]


def test_more_conversations_side_by_side_hold_more_chunks(recipe):
    def held(max_rows: str) -> float:
        teacher = {"data.source.teacher": "LocalTeacher", "data.source.teacher.max_rows": max_rows}
        return estimate_recipe(options(recipe, **teacher), chip="h100")["figures"]["generating_peak_bytes"]

    assert held("1") < held("4") < held("8") == held("64")  # two groups of four are a round


@pytest.mark.thorough
def test_the_bundled_model_as_users_run_it(tmp_path):
    """`recipes/pocket.yaml`, shorter; the figures of docs/scaling.md are those of its whole run."""
    recipe = [
        "--config=pocket.yaml",
        "--trainer.max_steps=60",
        "--trainer.callbacks=[]",
        "--trainer.log_every_n_steps=1",
        "--data.groups_per_round=8",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]

    def command(*args: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "lit_cartridges.cli", *args],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            timeout=300,
        )

    command("fit", *recipe)
    command("estimate", *recipe, f"--json={tmp_path / 'told.json'}")
    told = json.loads((tmp_path / "told.json").read_text())["figures"]
    rows = list(csv.DictReader((tmp_path / "run" / "logs" / "version_0" / "metrics.csv").open()))

    def last(name: str) -> float:
        return float(next(row[name] for row in reversed(rows) if row[name]))

    made = read_conversations(tmp_path / "run" / "recording")
    chunks = [talk.metadata["chunk_num_tokens"] for talk in made[::32]]
    assert told["conversations"] == last("stream/conversations") == len(made)
    assert told["training_peak_bytes"] == pytest.approx(last("memory/peak_bytes"), rel=0.15)
    assert told["read_tokens_per_conversation"] == pytest.approx(
        np.mean(chunks) / 32 + 14 + 2 + 9 + 4 / 32, rel=0.1
    )
    assert told["cartridge_file_bytes"] == tensor_bytes(
        tmp_path / "run" / "cartridge" / "cartridge.safetensors"
    )
    for figure, measured in (("training_s", "time/training_s"), ("generating_s", "time/generating_s")):
        assert last(measured) / 4 < told[figure] < last(measured) * 4  # other processes take their share


def test_layers_are_run_again_where_that_is_what_it_takes_to_fit(recipe, tmp_path):
    """Rows of so many tokens that this card holds a step either way, in one way, or in none."""
    deep = Path(save_model(tmp_path / "deep"))
    config = json.loads((deep / "config.json").read_text())
    (deep / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 24}))

    def told(tokens, recompute):
        settings = recipe | {"model.model": str(deep), "data.tokens_per_batch": str(tokens)}
        settings["model.gradient_checkpointing"] = recompute
        return estimate_recipe([f"--{name}={value}" for name, value in settings.items()], chip="l4")

    many = next(n for n in (2**k for k in range(10, 40)) if not told(n, "false")["figures"]["fits"])
    assert "--model.gradient_checkpointing false" in told_as_text(told(many // 2, "true"))
    assert "advice" not in told_as_text(told(many // 2, "false"))
    assert told(many, "false")["advice"][0].startswith(
        "--model.gradient_checkpointing true: training then takes"
    )
    assert not told(2**24, "false")["advice"]
