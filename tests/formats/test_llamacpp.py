"""States of llama.cpp: the file by a plain reader, and what is refused. llama.cpp itself: tests/llamacpp."""

from __future__ import annotations

import copy
import struct
from dataclasses import replace

import pytest
import torch

from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cli import main
from lit_cartridges.formats import format_of
from lit_cartridges.formats.llamacpp import LlamaCppFormat, placeholder_ids
from tests.formats.cartridges import prefilled, with_biases
from tests.tiny_models import VOCAB, tiny_model

LLAMACPP = LlamaCppFormat()


def folder_of(config, folder) -> str:
    """A folder with the config and no weights."""
    config.save_pretrained(folder)
    return str(folder)


def of_model(name, folder, *, tokens=37):
    """A cartridge of a tiny model whose config lies in ``folder``."""
    cartridge = prefilled(name, tokens=tokens)
    base_model = folder_of(tiny_model(name).config, folder)
    cartridge.provenance = replace(cartridge.provenance, base_model=base_model, steps=0)
    return cartridge


NUMBERS = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}


def their_state(content, width, heads):
    """What llama.cpp finds in the file: token ids, positions, and per layer [kv_heads, tokens, head_dim]."""
    place = 0

    def take(layout):
        nonlocal place
        found = struct.unpack_from("<" + layout, content, place)
        place += struct.calcsize("<" + layout)
        return found

    def numbers(kind, count):
        nonlocal place
        size = NUMBERS[kind].itemsize * count
        found = torch.frombuffer(bytearray(content[place : place + size]), dtype=NUMBERS[kind])
        place += size
        return found

    def rows(tokens):
        kind, row_bytes = take("iQ")
        assert row_bytes == NUMBERS[kind].itemsize * heads * width
        return numbers(kind, tokens * heads * width).view(tokens, heads, width).transpose(0, 1)

    def columns(tokens):
        kind, *sizes = take("iII")
        assert sizes == [NUMBERS[kind].itemsize, heads * width]
        return numbers(kind, tokens * heads * width).view(heads, width, tokens).transpose(1, 2)

    assert take("4s") == (b"qsgg",) and take("I") == (3,)
    ids = take(f"{take('I')[0]}i")
    assert take("I") == (1,)
    tokens = take("I")[0]
    cells = [take("iIi") for _ in range(tokens)]
    assert {cell[1:] for cell in cells} == {(1, 0)}
    transposed, layers = take("II")
    sides = [[read(tokens) for _ in range(layers)] for read in (rows, columns if transposed else rows)]
    assert place == len(content)
    return list(ids), [cell[0] for cell in cells], *sides


@pytest.mark.parametrize("dtype", NUMBERS.values())
@pytest.mark.parametrize(("name", "neighbours"), [("llama", True), ("qwen3", False)])
def test_a_plain_reader_finds_the_numbers(name, neighbours, dtype, tmp_path):
    cartridge = of_model(name, tmp_path / "model")
    with pytest.warns(UserWarning, match="llamacpp files hold no base_model, fingerprint: left out"):
        LLAMACPP.write(cartridge, tmp_path / "a.bin", dtype=dtype)
    keys, values = cartridge.tensors(dtype=dtype)
    heads, _, width = keys[0].shape
    ids, positions, their_keys, their_values = their_state((tmp_path / "a.bin").read_bytes(), width, heads)
    assert ids == placeholder_ids(tmp_path / "a.bin") and positions == list(range(37))
    half = [i // 2 + (i % 2) * (width // 2) for i in range(width)]  # what lies at place i, of two halves
    order = half if neighbours else list(range(width))
    for ours, theirs in zip(keys, their_keys, strict=True):
        assert torch.equal(ours[..., order], theirs)
    for ours, theirs in zip(values, their_values, strict=True):
        assert torch.equal(ours, theirs)


def test_placeholders_are_the_cartridges_own_and_in_the_vocabulary(tmp_path):
    files = [tmp_path / name for name in ("a.bin", "b.bin", "c.bin")]
    one, other = (
        of_model("llama", tmp_path / "model", tokens=40),
        of_model("llama", tmp_path / "model", tokens=3),
    )
    with pytest.warns(UserWarning, match="left out"):
        for cartridge, file in zip((one, other, one), files, strict=True):
            LLAMACPP.write(cartridge, file)
    first, second, again = map(placeholder_ids, files)
    assert first == again and first[:3] != second and (len(first), len(second)) == (40, 3)
    assert all(0 <= i < VOCAB for i in first + second)
    (tmp_path / "cut.bin").write_bytes(files[0].read_bytes()[:50])
    with pytest.raises(CartridgeFileError, match="truncated: it says 40 positions"):
        placeholder_ids(tmp_path / "cut.bin")
    (tmp_path / "other.bin").write_bytes(b"PK" * 20)
    with pytest.raises(CartridgeFileError, match="no state of llama.cpp of version 3"):
        placeholder_ids(tmp_path / "other.bin")


def test_the_command_writes_it_in_16_bits_and_nothing_reads_it_back(tmp_path, capsys):
    of_model("qwen2", tmp_path / "model").save_pretrained(tmp_path / "in")
    main(["convert", str(tmp_path / "in"), str(tmp_path / "a.bin"), "--to", "llamacpp"])
    told = capsys.readouterr()
    assert "lit_cartridges → llamacpp" in told.out and "rounded to it" in told.err
    assert format_of(tmp_path / "a.bin").name == "llamacpp"
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "a.bin"), str(tmp_path / "b"), "--to", "peft"])
    assert "says neither its model nor its heads" in capsys.readouterr().err


LONG = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("gemma3_text", {}, "model_type 'gemma3_text' was not compared; those that were are llama, mistral"),
        ("gpt_neox", {}, "model_type 'gpt_neox' was not compared"),
        ("mistral", {}, "its window of 24 tokens is not llama.cpp's"),
        ("llama", {"rope_parameters": LONG}, "rope_type 'yarn' was not compared"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5",
        ),
    ],
)
def test_models_that_llama_cpp_reads_otherwise_are_refused(name, changed, told, tmp_path):
    config = copy.deepcopy(tiny_model(name).config)
    for setting, value in changed.items():
        setattr(config, setting, value)
    cartridge = prefilled(name)
    cartridge.provenance = replace(cartridge.provenance, base_model=folder_of(config, tmp_path / "model"))
    with pytest.raises(ValueError, match=f"would not read this cartridge as .* does: {told}"):
        LLAMACPP.write(cartridge, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_a_bias_and_a_nameless_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a per-key bias, for which llamacpp files have no place"):
        LLAMACPP.write(with_biases(of_model("llama", tmp_path / "model")), tmp_path / "a.bin")
    nameless = prefilled("llama")
    nameless.provenance = replace(nameless.provenance, base_model="")
    with pytest.raises(ValueError, match="does not name its model, .* give --base_model"):
        LLAMACPP.write(nameless, tmp_path / "a.bin")
