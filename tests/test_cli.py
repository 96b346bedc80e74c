"""The command line, as a user meets it: whole commands in a process of their own, and bad settings."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_cartridges import Cartridge
from lit_cartridges.cli import main
from tests.tiny_run import SEED_PROMPTS, save_corpus, save_model


@pytest.fixture
def options(tmp_path, model_folder):
    """A run of a few steps on the tiny model, by options alone."""
    corpus = save_corpus(tmp_path / "corpus.txt")
    settings = {
        "trainer.accelerator": "cpu",
        "trainer.max_steps": 3,
        "trainer.log_every_n_steps": 1,
        "trainer.default_root_dir": tmp_path / "run",
        "model.model": model_folder,
        "model.num_tokens": 8,
        "data.corpus": corpus,
        "data.source.seed_prompts": json.dumps(SEED_PROMPTS),
        "data.source.min_chunk_tokens": 20,
        "data.source.max_chunk_tokens": 40,
        "data.source.conversations_per_group": 4,
        "data.groups_per_round": 1,
        "data.source.question_temperature": 1.0,
        "data.source.question_max_tokens": 5,
        "data.source.answer_max_tokens": 8,
        "data.source.top_k": 4,
        "data.tokens_per_batch": 40,
    }
    return settings


def command(name: str, settings: dict, *more: str) -> list[str]:
    return [name, *(f"--{key}={value}" for key, value in settings.items()), *more]


def test_fit_leaves_a_cartridge_logs_and_the_resolved_config_and_goes_on_by_itself(tmp_path, options):
    main(command("fit", options))
    run = tmp_path / "run"
    assert Cartridge.from_pretrained(run / "cartridge").provenance.steps == 3
    config = (run / "config.yaml").read_text()
    assert "num_tokens: 8" in config and "learning_rate: 0.02" in config
    header = (run / "logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    expected = {
        "train/loss",
        "train/perplexity",
        "train/grad_norm",
        "speed/train_tokens_per_s",
        "time/generating_s",
    }
    assert expected < set(header)
    assert list((run / "logs" / "version_0").glob("events.out.tfevents.*"))
    main(command("fit", options | {"trainer.max_steps": 5}))
    assert Cartridge.from_pretrained(run / "cartridge").provenance.steps == 5


def test_the_hyper_parameters_reach_every_logger_and_the_token_none(tmp_path, options):
    given = ["--model.init=RandomVectors", "--model.init.std=0.5", "--model.token=hf_verysecret"]
    main(command("fit", options | {"trainer.max_steps": 1}, *given))
    logs = tmp_path / "run" / "logs" / "version_0"
    told = yaml.safe_load((logs / "hparams.yaml").read_text())
    expected = {
        "model.model": options["model.model"],
        "model.init": "RandomVectors",
        "model.init.std": 0.5,
        "model.num_tokens": 8,
        "model.learning_rate": 0.02,
        "data.corpus": options["data.corpus"],
        "corpus_tokens": 120,
        "compression": 15.0,
    }
    assert {name: told[name] for name in expected} == expected
    (events,) = logs.glob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    start = HParamsPluginData.FromString(
        accumulator.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    )
    seen = {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in start.session_start_info.hparams.items()
    }
    assert {name: seen[name] for name in expected} == expected
    assert "model.token" not in told and "model.token" not in seen
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"verysecret" in path.read_bytes() for path in files)


def test_a_fast_dev_run_writes_nothing_and_leaves_a_run_as_it_is(tmp_path, options, capsys):
    def written():
        return {path: path.is_dir() or path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    before, tried = written(), options | {"trainer.fast_dev_run": 2, "data.validation_groups": 1}
    main(command("fit", tried, "--trainer.accumulate_grad_batches=2"))
    assert written() == before
    main(command("fit", options))
    before = written()
    main(command("fit", tried | {"model.num_tokens": 9}))
    assert written() == before
    with pytest.raises(SystemExit):
        main(command("fit", tried, f"--resume={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"))
    assert "--trainer.fast_dev_run=2, --resume=" in capsys.readouterr().err
    assert written() == before


@pytest.mark.parametrize("name", ["limit_train_batches", "overfit_batches"])
def test_an_epoch_that_would_cut_a_step_is_named_before_anything_is_built(options, capsys, name):
    with pytest.raises(SystemExit) as end:
        main(command("fit", options, f"--trainer.{name}=3", "--trainer.accumulate_grad_batches=2"))
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.count("\n") == 1
    assert f"--trainer.{name}=3, --trainer.accumulate_grad_batches=2: an epoch would end within" in told


def test_an_init_strategy_is_chosen_by_a_word_and_its_options_follow(tmp_path, options):
    main(command("fit", options, "--model.init", "RandomVectors", "--model.init.std", "0.5"))
    first = Cartridge.from_pretrained(tmp_path / "run" / "cartridge")
    assert first.provenance.init == "RandomVectors"
    again = options | {"trainer.default_root_dir": tmp_path / "again"}
    main(
        command(
            "fit", again, "--model.init=FromCartridge", f"--model.init.path={tmp_path / 'run' / 'cartridge'}"
        )
    )
    assert "FromCartridge" in Cartridge.from_pretrained(tmp_path / "again" / "cartridge").provenance.init


def test_validate_scores_held_out_conversations(tmp_path, options, capsys):
    main(command("fit", options))
    main(command("validate", options, f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"))
    assert "val/loss" in capsys.readouterr().out


def test_synthesize_writes_the_conversations_of_a_recipe(tmp_path, options, capsys):
    output = tmp_path / "made.parquet"
    main(command("synthesize", options, f"--output={output}", "--num_conversations=8"))
    assert {"messages", "system_prompt", "metadata", "type"} == set(pq.read_schema(output).names)
    assert "conversations in" in capsys.readouterr().out
    of_recording = {name: value for name, value in options.items() if "source" not in name}
    of_recording["data.source"] = "Recorded"
    main(
        command(
            "fit",
            of_recording | {"data.source.path": output, "trainer.default_root_dir": tmp_path / "recorded"},
        )
    )
    assert Cartridge.from_pretrained(tmp_path / "recorded" / "cartridge").provenance.steps == 3


def test_compose_joins_cartridges(tmp_path, options, capsys):
    main(command("fit", options))
    one = tmp_path / "run" / "cartridge"
    main(["compose", str(one), str(one), f"--output={tmp_path / 'both'}"])
    assert Cartridge.from_pretrained(tmp_path / "both").num_tokens == 8 + 7  # the second sink is left out


def test_chat_answers_in_the_terminal(tmp_path, options):
    main(command("fit", options))
    chat = subprocess.run(
        [
            sys.executable,
            "-m",
            "lit_cartridges.cli",
            "chat",
            tmp_path / "run" / "cartridge",
            "--max_new_tokens",
            "4",
        ],
        input="w1 w2\n/new\nw3\n\n",
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert chat.returncode == 0, chat.stderr
    assert chat.stdout.count("> ") == 4


def test_help_names_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    for name in (
        "fit",
        "validate",
        "test",
        "predict",
        "synthesize",
        "evaluate",
        "chat",
        "compose",
        "demo",
        "recipes",
    ):
        assert f"\n  {name} " in shown
    main(["recipes"])
    assert "pocket.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("data.corpus", "EMPTY", "the corpus is empty"),
        ("data.source.max_chunk_tokens", 4096, "--data.source.max_chunk_tokens=4096"),
        ("model.num_tokens", 600, "--model.num_tokens=600"),
        ("model.num_frozen_tokens", 8, "--model.num_frozen_tokens=8"),
        ("model.num_frozen_tokens", -1, "--model.num_frozen_tokens=-1"),
        ("data.source.top_k", 1000, "--data.source.top_k=1000"),
        ("data.tokens_per_batch", 1, "--data.tokens_per_batch=1"),
        ("data.source.seed_prompts", "nowhere", "nowhere"),
        ("model.learning_rate", 0, "--model.learning_rate=0"),
    ],
)
def test_a_setting_that_cannot_work_fails_before_the_model_is_loaded(
    tmp_path, options, capsys, monkeypatch, setting, value, told
):
    if value == "EMPTY":
        (tmp_path / "empty.txt").write_text(" \n")
        value = tmp_path / "empty.txt"
    if setting == "data.source.max_chunk_tokens":
        save_corpus(tmp_path / "corpus.txt", num_tokens=5000)

    def loaded(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("lit_cartridges.module.lit_cartridge.load_frozen_model", loaded)
    with pytest.raises(SystemExit) as end:
        main(command("fit", options | {setting: value}))
    assert end.value.code == 2
    assert told in capsys.readouterr().err


def test_a_cartridge_of_another_model_is_refused(tmp_path, options, capsys):
    main(command("fit", options))
    other = save_model(tmp_path / "qwen3", "qwen3")
    changed = options | {"model.model": other, "trainer.default_root_dir": tmp_path / "other"}
    with pytest.raises(SystemExit):
        main(
            command(
                "fit",
                changed,
                "--model.init=FromCartridge",
                f"--model.init.path={tmp_path / 'run' / 'cartridge'}",
            )
        )
    assert "head_dim: 8 against 16" in capsys.readouterr().err


def test_a_recording_of_other_settings_is_not_taken_for_this_runs(tmp_path, options, capsys):
    main(command("fit", options))
    with pytest.raises(SystemExit):
        main(command("fit", options | {"data.seed": 5}, "--resume=never"))
    told = capsys.readouterr().err
    assert "made with other settings (seed: 0 then, 5 now)" in told


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train"])
    assert end.value.code == 2
    assert "no command 'train'; there are fit, validate," in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evalute"])
    assert "no command 'evalute'; did you mean evaluate? there are" in capsys.readouterr().err
