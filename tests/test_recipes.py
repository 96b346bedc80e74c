"""Every recipe parses, and says in its header what it needs, how it is launched and what may be overridden."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lit_cartridges.cartridge_cli import CartridgeCLI

FOLDER = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
OVERLAYS = sorted(FOLDER.glob("deepspeed/*.yaml"))  # to be laid over one of the others
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


@pytest.mark.parametrize("recipe", RECIPES + OVERLAYS + TEACHERS, ids=lambda path: path.stem)
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
