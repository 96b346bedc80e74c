"""Every recipe parses, and says in its header what it needs, how it is launched and what may be overridden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.commands.estimate import estimate_recipe
from tests.tiny_run import save_corpus, tokenizer

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
OVERLAYS = sorted(FOLDER.glob("deepspeed/*.yaml"))  # to be laid over one of the others
CARDS = sorted(FOLDER.glob("cards/*.yaml"))  # the same
TEACHERS = sorted(FOLDER.glob("teachers/*.yaml"))  # the same
PATIENT = {
    "name": "A. Person",
    "birthday": "1960-01-01",
    "diagnosis": "hypertension",
    "texts": {"text_0": "The patient is well."},
    "questions": [
        {"question": "How is the patient?", "correct": "well"}
        | {
            f"answer_{letter}": answer
            for letter, answer in zip("abcde", ["well", "ill", "tired", "cold", "hot"], strict=True)
        }
    ],
}


@pytest.mark.parametrize("recipe", RECIPES + OVERLAYS + TEACHERS + CARDS, ids=lambda path: path.stem)
def test_the_header_names_prerequisite_launch_line_and_override(recipe):
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    for word in ("Prerequisite:", "Launch:", "Override:"):
        assert any(word in line for line in header), f"{recipe.name} lacks {word}"
    launch = header[next(number for number, line in enumerate(header) if "Launch:" in line) :]
    assert recipe.name in launch[0] + launch[1]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_builds_its_module_and_data(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a user's own files would lie
    (tmp_path / "my_text.txt").write_text("a text\n")
    (tmp_path / "benchmark_v5.json").write_text(json.dumps({"patient_01": PATIENT}))
    content = yaml.safe_load(recipe.read_text())
    if "class_path" in content["model"]:
        from pocket_lab.pretrain import main

        with pytest.raises(SystemExit) as end:
            main(["fit", "--config", str(recipe), "--print_config"])
        assert end.value.code == 0
        return
    cli = CartridgeCLI.run_with(["--config", str(recipe)], run=False)
    assert cli.model.num_tokens == content["model"]["num_tokens"]
    assert type(cli.model.init).__name__ == content["model"]["init"]
    assert type(cli.model.objective).__name__ == content["model"]["objective"]
    assert cli.datamodule.tokens_per_batch == content["data"]["tokens_per_batch"]
    assert cli.trainer.max_steps == content["trainer"]["max_steps"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_changes_the_strategy_of_another_recipe_alone(overlay, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    from lit_cartridges.strategies import CartridgeDeepSpeedStrategy

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    trainer = yaml.safe_load(overlay.read_text())["trainer"]
    assert trainer.keys() == {"devices", "strategy"}
    base = ["--config", str(FOLDER / "pocket.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    cli = CartridgeCLI.run_with([*base, "--config", str(overlay)], run=False)
    assert isinstance(cli.trainer.strategy, CartridgeDeepSpeedStrategy)
    for option, value in trainer["strategy"]["init_args"].items():
        assert getattr(cli.trainer.strategy, option) == value
    assert cli.model.num_tokens == CartridgeCLI.run_with(base, run=False).model.num_tokens == 150


@pytest.mark.parametrize(("overlay", "chip"), zip(CARDS, ["h200", "h100"], strict=True), ids=lambda x: str(x))
@pytest.mark.parametrize("recipe", ["llama3.2_3b_longhealth", "qwen3_4b_text"])
def test_a_cards_rows_fit_it_and_make_the_same_step(recipe, overlay, chip, tmp_path):
    shapes = {
        "llama": {
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "layers": 28,
            "heads": 24,
            "vocab_size": 128256,
        },
        "qwen3": {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "layers": 36,
            "heads": 32,
            "vocab_size": 151936,
        },
    }
    kind = "llama" if "llama" in recipe else "qwen3"
    sizes = shapes[kind]
    config = AutoConfig.for_model(
        kind,
        num_hidden_layers=sizes.pop("layers"),
        num_attention_heads=sizes.pop("heads"),
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        dtype="bfloat16",
        **sizes,
    )
    config.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    base = ["--config", str(FOLDER / f"{recipe}.yaml"), "--trainer.callbacks=[]", "--trainer.devices=1"]
    base += [f"--model.model={tmp_path}", f"--data.corpus={save_corpus(tmp_path / 'c.txt', num_tokens=9000)}"]
    plain = estimate_recipe(base, chip="a100-40gb")
    longer = estimate_recipe([*base, "--config", str(overlay)], chip=chip)
    for told in (plain, longer):
        assert told["figures"]["fits"] and not told["advice"]
    rows = [x["figures"]["rows"] * x["figures"]["conversations_per_row"] for x in (plain, longer)]
    assert rows[1] == pytest.approx(rows[0], rel=0.1)


@pytest.mark.parametrize("overlay", TEACHERS, ids=lambda path: path.stem)
def test_an_overlay_changes_the_teacher_of_another_recipe_alone(overlay, tmp_path):
    base = ["--config", str(FOLDER / "pocket.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    teacher = yaml.safe_load(overlay.read_text())["data"]["source"]["init_args"]["teacher"]
    cli = CartridgeCLI.run_with([*base, "--config", str(overlay)], run=False)
    source, plain = cli.datamodule.source, CartridgeCLI.run_with(base, run=False).datamodule.source
    assert type(source.teacher).__name__ == teacher["class_path"]
    assert source.teacher.model == teacher["init_args"]["model"]
    one = [*base, "--config", str(overlay), "--data.source.teacher.base_urls", "[http://a:1, http://b:2]"]
    assert CartridgeCLI.run_with(one, run=False).datamodule.source.teacher.base_urls == [
        "http://a:1/v1",
        "http://b:2/v1",
    ]
    assert source.answer == plain.answer and source.seed_prompts == plain.seed_prompts


@pytest.mark.parametrize("arguments", [["--config", "pocket.yaml"], ["--config=pocket.yaml"]])
def test_an_installed_recipe_is_found_by_its_name(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CartridgeCLI.run_with(arguments, run=False).model.num_tokens == 150
