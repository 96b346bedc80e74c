"""`lit-cartridges convert` from every format to every other, and what is common to them."""

from __future__ import annotations

import os

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lit_cartridges import Cartridge
from lit_cartridges.cartridge import Fingerprint
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cli import main
from lit_cartridges.formats import FORMATS, format_of, local_copy, named_format, with_base_model
from tests.formats.cartridges import drawn, prefilled, same_content, with_biases
from tests.tiny_models import tiny_model

# Those of which cartridges can be made again.
READ = [name for name, known in FORMATS.items() if known.reads]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the config of the tiny Llama and none of its weights."""
    folder = tmp_path_factory.mktemp("config")
    tiny_model("llama").config.save_pretrained(folder)
    return str(folder)


def place(folder, name):
    suffix = FORMATS[name].suffix
    return folder / name / f"cartridge{suffix}" if suffix else folder / name


def convert(*arguments, ok=True, capsys=None):
    """Runs the command; returns what it printed."""
    if ok:
        main(["convert", *map(str, arguments)])
    else:
        with pytest.raises(SystemExit) as end:
            main(["convert", *map(str, arguments)])
        assert end.value.code == 2
    return capsys.readouterr() if capsys else None


@pytest.mark.parametrize("to", READ)
@pytest.mark.parametrize("source", READ)
def test_every_format_becomes_every_other_exactly(source, to, tmp_path, capsys):
    cartridge = drawn(frozen=3, base_model="some/model")
    before, after = place(tmp_path / "a", source), place(tmp_path / "b", to)
    FORMATS[source].write(cartridge, before)
    assert format_of(before).name == source
    unnamed = "base_model" not in FORMATS[source].holds
    if unnamed and to == "tokasaurus":
        told = convert(before, after, "--to", to, "--trust_pickle", ok=False, capsys=capsys)
        assert "does not name its model" in told.err
        return
    told = convert(before, after, "--to", to, "--trust_pickle", capsys=capsys)
    back = FORMATS[to].read(after, trust_pickle=True)
    assert same_content(back, cartridge)
    name = "an unnamed model" if unnamed else "some/model"
    assert f"16 positions (3 frozen) of {name}, {source} → {to}" in told.out


@pytest.mark.parametrize("source", ["hazyresearch", "peft", "tokasaurus"])
def test_the_base_model_fills_in_what_a_file_does_not_say(source, base, tmp_path):
    cartridge = prefilled("llama", tokens=16)
    FORMATS[source].write(cartridge, place(tmp_path, source), dtype=torch.float32)
    convert(
        place(tmp_path, source),
        tmp_path / "out",
        "--to",
        "lit_cartridges",
        "--base_model",
        base,
        "--trust_pickle",
    )
    known = Cartridge.from_pretrained(tmp_path / "out").provenance
    assert known.base_model == base
    assert known.fingerprint == Fingerprint.of_config(tiny_model("llama").config)


def test_a_cartridge_of_another_shape_is_refused_and_the_difference_named(base, tmp_path, capsys):
    FORMATS["hazyresearch"].write(drawn(layers=3, heads=4, width=16), place(tmp_path, "hazyresearch"))
    arguments = [place(tmp_path, "hazyresearch"), tmp_path / "out", "--to", "peft", "--trust_pickle"]
    told = convert(*arguments, "--base_model", base, ok=False, capsys=capsys).err
    for difference in ("num_layers: 3 against 2", "num_kv_heads: 4 against 2", "head_dim: 16 against 8"):
        assert difference in told
    assert not (tmp_path / "out").exists()


def test_a_fingerprint_that_the_cartridge_brings_is_compared_too(base):
    """Same shapes, other rotary settings: only the fingerprint can tell."""
    cartridge = prefilled("llama")
    assert with_base_model(cartridge, base).provenance.base_model == base
    rotated = Fingerprint(**{**vars(cartridge.provenance.fingerprint), "rope": {"rope_theta": 7.0}})
    cartridge.provenance = type(cartridge.provenance)(fingerprint=rotated)
    with pytest.raises(ValueError, match=r"rope: \{'rope_theta': 7.0\} against"):
        with_base_model(cartridge, base)


@pytest.mark.parametrize("to", ["peft", "hazyresearch", "tokasaurus"])
def test_a_bias_is_dropped_only_when_asked(to, tmp_path, capsys):
    cartridge = with_biases(drawn(base_model="some/model"))
    cartridge.save_pretrained(tmp_path / "in")
    out = place(tmp_path / "out", to)
    told = convert(tmp_path / "in", out, "--to", to, ok=False, capsys=capsys).err
    assert f"a per-key bias, for which {to} files have no place" in told and "--drop_bias" in told
    assert not out.exists()
    told = convert(tmp_path / "in", out, "--to", to, "--drop_bias", capsys=capsys).err
    assert f"note: {to} files hold no per-key bias: dropped" in told
    assert same_content(FORMATS[to].read(out, trust_pickle=True), cartridge)


def test_our_own_folders_keep_the_bias(tmp_path):
    with_biases(drawn()).save_pretrained(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out", "--to", "lit_cartridges")
    back = Cartridge.from_pretrained(tmp_path / "out").biases()
    assert back is not None and all(torch.equal(x, torch.full((2, 16), -0.5)) for x in back)


def test_the_dtype_is_the_formats_own_unless_asked_for(tmp_path, capsys):
    drawn(base_model="some/model").save_pretrained(tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "peft", "--to", "peft", "--dtype", "bfloat16")
    assert (
        load_file(tmp_path / "peft" / "adapter_model.safetensors")["prompt_embeddings"].dtype
        == torch.bfloat16
    )
    convert(tmp_path / "in", tmp_path / "toka", "--to", "tokasaurus", "--dtype", "float32")
    held = torch.load(tmp_path / "toka" / "cartridge.pt", weights_only=False)
    assert held["trainable_keys"][0].dtype == torch.float32
    arguments = [tmp_path / "in", tmp_path / "ours", "--to", "lit_cartridges", "--dtype", "float16"]
    told = convert(*arguments, ok=False, capsys=capsys).err
    assert "dtype=float16: lit_cartridges files are always float32" in told


def test_losses_and_what_is_unchecked_are_printed(tmp_path, capsys):
    drawn(base_model="some/model", init="FirstTokens", steps=4).save_pretrained(tmp_path / "in")
    told = convert(tmp_path / "in", tmp_path / "out", "--to", "tokasaurus", capsys=capsys)
    assert told.err.splitlines() == [
        "note: tokasaurus files hold no init, steps: left out",
        "note: shapes and rotary settings are unchecked; --base_model checks them",
    ]


def test_a_pickle_is_not_read_unasked(tmp_path, capsys):
    FORMATS["hazyresearch"].write(drawn(), tmp_path / "cache-step0.pt")
    told = convert(tmp_path / "cache-step0.pt", tmp_path / "out", "--to", "peft", ok=False, capsys=capsys).err
    assert "is a pickle" in told and "--trust_pickle" in told
    assert not (tmp_path / "out").exists()


def test_the_format_of_the_input_can_be_named(tmp_path):
    FORMATS["hazyresearch"].write(drawn(), tmp_path / "a.pt")
    (tmp_path / "a.pt").rename(tmp_path / "a.ckpt")
    arguments = [tmp_path / "a.ckpt", tmp_path / "out", "--to", "peft", "--trust_pickle"]
    with pytest.raises(SystemExit):
        convert(*arguments)
    convert(*arguments, "--from", "hazyresearch")
    assert same_content(FORMATS["peft"].read(tmp_path / "out"), drawn())


def test_unrecognised_paths_say_what_would_be(tmp_path):
    with pytest.raises(
        CartridgeFileError, match="holds no cartridge that is recognised; formats are lit_cartridges: a"
    ):
        format_of(tmp_path)
    with pytest.raises(CartridgeFileError, match="nowhere does not exist"):
        format_of(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match="format 'onnx' is not known; choose one of lit_cartridges, hazyresearch"
    ):
        named_format("onnx")


@pytest.mark.parametrize("to", ["peft", "hazyresearch", "tokasaurus"])
def test_a_crash_while_writing_leaves_the_old_files(to, tmp_path, monkeypatch):
    known = FORMATS[to]
    old, new = drawn(base_model="some/model"), drawn(base_model="some/model", frozen=5)
    known.write(old, place(tmp_path, to))
    files = sorted(tmp_path.rglob("*"))

    def crash(*_):
        raise SystemExit("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(SystemExit):
            known.write(new, place(tmp_path, to))
    assert same_content(known.read(place(tmp_path, to), trust_pickle=True), old)
    assert sorted(tmp_path.rglob("*")) == files


def test_a_name_that_is_no_path_is_looked_up_on_the_hub(tmp_path, monkeypatch, capsys):
    FORMATS["tokasaurus"].write(drawn(base_model="some/model"), tmp_path / "hub")
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda repo, *, allow_patterns: asked.append((repo, allow_patterns)) or str(tmp_path / "hub"),
    )
    convert("them/cartridge", tmp_path / "out", "--to", "peft", "--trust_pickle")
    assert asked[0][0] == "them/cartridge" and {"config.yaml", "*.pt", "adapter_model.*"} < set(asked[0][1])
    assert same_content(FORMATS["peft"].read(tmp_path / "out"), drawn())


def test_a_name_that_is_nowhere_is_named():
    with pytest.raises(CartridgeFileError, match="'them/nothing' is no folder here, and the Hub has none"):
        local_copy("them/nothing")


def test_help_explains_formats_and_options(capsys):
    with pytest.raises(SystemExit) as end:
        main(["convert", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for word in (
        *("lit_cartridges", "peft", "tokasaurus", "hazyresearch"),
        "adapter_config.json",
        "cache*.pt",
        "config.yaml",
        "--trust_pickle",
        "--drop_bias",
    ):
        assert word in shown


def test_a_cartridge_from_another_system_is_ready_to_use(base, tmp_path):
    """From HazyResearch's file to a cartridge that the model takes, by one command."""
    cartridge = prefilled("llama", tokens=16)
    FORMATS["tokasaurus"].write(cartridge, tmp_path / "in", dtype=torch.float32)
    config = yaml.safe_load((tmp_path / "in" / "config.yaml").read_text())
    assert config["model"]["pretrained_model_name_or_path"] == "tiny/llama"
    convert(
        tmp_path / "in", tmp_path / "out", "--to", "lit_cartridges", "--base_model", base, "--trust_pickle"
    )
    Cartridge.from_pretrained(tmp_path / "out").require_fit(tiny_model("llama"))
