"""A cartridge knows the weights that it was made with: recorded, compared, and used when its model is loaded by its word."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.cli import main
from lit_cartridges.commands.evaluate import evaluate_command
from lit_cartridges.evals import QuestionFile
from lit_cartridges.init import FirstTokens, FromCartridge
from lit_cartridges.models import ModelError, load_config, load_model
from lit_cartridges.models.base_weights import base_of, other_weights, recorded_settings, with_recorded
from tests.saved_models import TENSORS, change_tensors
from tests.tiny_run import fit, new_data, new_module, save_model

A, B = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """A model, and another one of its shapes."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    save_model(first), save_model(second)
    change_tensors(second, lambda all_: {k: torch.randn_like(v) * 0.15 for k, v in all_.items()})
    return str(first), str(second)


def made(folder: str, path=None, **base) -> Cartridge:
    """A cartridge of the model in ``folder``, saved to ``path``; ``base`` replaces what is known of its weights."""
    model = load_model(folder)
    known = Provenance(
        base_model=folder, fingerprint=Fingerprint.of_config(model.config), base=base or base_of(model)
    )
    cartridge = Cartridge(*prefill(model, range(3, 20)), provenance=known)
    if path is not None:
        cartridge.save_pretrained(path)
    return cartridge


def test_training_records_digest_and_dtype_and_the_file_keeps_them(tmp_path, folders, corpus):
    module = new_module(folders[0], dtype="bfloat16")
    fit(tmp_path, module, new_data(corpus), max_steps=1)
    known = Cartridge.from_pretrained(module.cartridge.save_pretrained(tmp_path / "made")).provenance
    assert known.base == {"digest": base_of(load_model(folders[0]))["digest"], "dtype": "bfloat16"}
    assert recorded_settings(known, {}) == {"dtype": "bfloat16"}


def test_a_file_of_before_says_nothing_and_still_loads(folders, tmp_path):
    cartridge = made(folders[0])
    cartridge.provenance = Provenance(base_model=folders[0])
    assert other_weights(cartridge, load_model(folders[0])) is None
    assert "of 'x' and the model is" in (
        other_weights(
            Cartridge(*cartridge.tensors(), provenance=Provenance(base_model="x")), load_model(folders[0])
        )
        or ""
    )


def test_compose_refuses_cartridges_of_different_weights(folders):
    one, other = made(folders[0]), made(folders[1])
    with pytest.raises(ValueError, match="made with different weights: .*first.*digest.*second"):
        Cartridge.compose([one, other])
    unknown = Cartridge(*one.tensors(), provenance=Provenance(base_model=folders[0]))
    with pytest.raises(ValueError, match="made with different weights"):
        Cartridge.compose([unknown, one, other])
    assert Cartridge.compose([unknown, one]).provenance.base == one.provenance.base


def chat(arguments, capsys, monkeypatch) -> tuple[str, str]:
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    main(["chat", *map(str, arguments)])
    return capsys.readouterr()


def test_chat_warns_of_other_weights_and_of_nothing_else(folders, tmp_path, capsys, monkeypatch):
    made(folders[0], tmp_path / "made")
    moved = save_model(tmp_path / "copy")
    assert "warning" not in chat([tmp_path / "made"], capsys, monkeypatch).err
    assert "warning" not in chat([tmp_path / "made", "--model", moved], capsys, monkeypatch).err
    told = chat([tmp_path / "made", "--model", folders[1]], capsys, monkeypatch).err
    assert told.count("\n") == 1 and told.startswith("warning: ")
    assert folders[0] in told and folders[1] in told and "other weights of the same shapes" in told


def test_chat_warns_when_the_weights_behind_a_name_have_changed(folders, tmp_path, capsys, monkeypatch):
    name = save_model(tmp_path / "model")
    made(name, tmp_path / "made")
    change_tensors(tmp_path / "model", lambda all_: {k: v * 1.01 for k, v in all_.items()})
    assert "other weights of the same shapes" in chat([tmp_path / "made"], capsys, monkeypatch).err


def test_evaluate_warns_of_other_weights(folders, tmp_path, capsys):
    made(folders[0], tmp_path / "made")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "w1 w2", "answer": "w3"}) + "\n")
    for model, warned in ((folders[1], True), (folders[0], False), (None, False)):
        evaluate_command(
            task=QuestionFile(path=questions),
            cartridges=[f"mine={tmp_path / 'made'}"],
            model=model,
            max_new_tokens=2,
            progress=False,
        )
        assert ("warning: mine: the cartridge was made with" in capsys.readouterr().err) is warned


def test_a_start_from_a_cartridge_of_other_weights_is_warned_about(folders, tmp_path, corpus):
    made(folders[1], tmp_path / "made")
    init = FromCartridge(path=str(tmp_path / "made"), grow=FirstTokens())
    with pytest.warns(UserWarning, match="init.path=.*other weights of the same shapes"):
        fit(tmp_path, new_module(folders[0], init=init), new_data(corpus), max_steps=1)


def test_a_run_does_not_go_on_with_other_weights(tmp_path, corpus):
    name = save_model(tmp_path / "model")
    trainer, _ = fit(tmp_path, new_module(name), new_data(corpus), max_steps=1)
    trainer.save_checkpoint(tmp_path / "at.ckpt")
    change_tensors(tmp_path / "model", lambda all_: {k: v * 1.01 for k, v in all_.items()})
    with pytest.raises(ValueError, match=r"made with model.model=.* \(sha256 "):
        fit(tmp_path, new_module(name), new_data(corpus), max_steps=2, ckpt_path=tmp_path / "at.ckpt")


def test_the_model_that_a_cartridge_names_is_loaded_as_it_was_made_with(
    folders, tmp_path, capsys, monkeypatch
):
    """In its dtype and revision, unless the user names the model or says something else."""
    made(folders[0], tmp_path / "made", dtype="bfloat16", commit="c" * 40)
    seen = []

    def load(name, **options):
        seen.append((options["dtype"], options.get("revision")))
        return load_model(name, **options)

    monkeypatch.setattr("lit_cartridges.models.load_model", load)
    for more in ([], ["--dtype", "float32", "--revision", "v1"], ["--model", folders[0]]):
        chat([tmp_path / "made", *more], capsys, monkeypatch)
    assert seen == [("bfloat16", "c" * 40), ("float32", "v1"), ("auto", None)]


@pytest.mark.parametrize(
    "base",
    [{"revision": "../../x"}, {"revision": 3}, {"commit": "a b"}, {"revision": "\x1b[31m"}, {"commit": "-x"}],
)
def test_a_revision_that_is_none_is_not_taken_from_a_cartridge(base):
    known = Provenance(base_model="org/m", base=base)
    with pytest.raises(ModelError, match="which is none; give --model") as error:
        with_recorded([known], None, {})
    assert str(error.value).isprintable()
    assert with_recorded([known], "org/other", {}) == ("org/other", {"dtype": "auto"})
    assert with_recorded([known], None, {"revision": "main"})[1]["revision"] == "main"


def test_of_quantisations_only_plain_settings_of_bitsandbytes_are_taken_from_a_cartridge():
    def recorded(config):
        return recorded_settings(Provenance(base_model="m", base={"quantization_config": config}), {})

    four_bits = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}
    assert recorded(four_bits) == {"quantization_config": four_bits}
    for other in (
        {"quant_method": "gptq", "dataset": "x"},
        {"load_in_4bit": {"a": 1}},
        "4bit",
        {},
        [1],
        {"x": 1},
    ):
        if other:
            with pytest.raises(ModelError, match="not taken from a file; give --model"):
                recorded(other)


def test_a_base_of_any_junk_breaks_nothing(folders):
    cartridge = made(folders[0])
    for junk in ({"digest": 3}, {"digest": None, "dtype": ["x"]}, [], "x", None):
        cartridge.provenance = Provenance(base_model=folders[0], base=junk)
        assert other_weights(cartridge, load_model(folders[0])) is None
        assert recorded_settings(cartridge.provenance, {}) == {}


def test_the_token_is_written_nowhere(tmp_path, folders, corpus):
    secret = "hf_verysecret"
    run = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main(
            [
                "fit",
                f"--model.model={folders[0]}",
                "--model.num_tokens=8",
                f"--model.token={secret}",
                f"--data.corpus={corpus}",
                "--data.source=RawCorpus",
                "--data.source.window_tokens=16",
                "--model.objective=lit_cartridges.losses.NextToken",
                "--trainer.accelerator=cpu",
                "--trainer.max_steps=1",
                f"--trainer.default_root_dir={run}",
            ]
        )
    files = [file for file in run.rglob("*") if file.is_file()]
    assert any(file.name == "config.yaml" for file in files) and any(file.suffix == ".ckpt" for file in files)
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    assert "token: null" in (run / "config.yaml").read_text()
    assert load_config(folders[0], token=secret).model_type == "llama"
    assert secret not in repr(vars(new_module(folders[0], token=secret)))
    assert (run / "cartridge" / TENSORS.replace("model", "cartridge")).exists()
