"""Which engine `serve` takes, and what it refuses before vLLM is started."""

from __future__ import annotations

import json
import logging
import sys

import pytest
import torch

from lit_cartridges.errors import SettingError
from lit_cartridges.serving.metrics import Metrics
from lit_cartridges.serving.residents import unreadable_by
from lit_cartridges.serving.shelf import Shelf
from lit_cartridges.serving.vllm.choosing import chosen_engine
from lit_cartridges.serving.vllm.server import require_options
from lit_cartridges.serving.vllm.spool import OpenCartridges, mark_lost, spool_file
from lit_cartridges.serving.vllm.spooled_residents import SpooledResidents
from lit_cartridges.serving.vllm.unloaded import UnloadedModel
from lit_cartridges.strategies.frozen_models import FrozenModel
from lit_cartridges.teachers.vllm_engine import PYTHON_VARIABLE
from tests.serving.server import serving
from tests.serving.shelves import POCKET, fill, of_text, pocket
from tests.teachers.engine_program import engine_environment
from tests.tiny_run import save_model


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A folder with an interpreter that finds a vLLM; the function says of which version."""
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    folder = engine_environment(tmp_path / "env")

    def of(version: str) -> str:
        (folder / "site" / "vllm" / "_version.py").write_text(f"__version__ = {version!r}\n")
        return str(folder)

    return of


def named(name: str, **options) -> FrozenModel:
    return FrozenModel(setting="--model", name=name, **({"dtype": "float32"} | options))


def test_without_vllm_it_is_the_engine_in_process_and_why_is_said(monkeypatch):
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    choice = chosen_engine(None, python=None, model=named(POCKET), device="auto")
    assert choice.unloaded is None and "vLLM is not installed beside lit_cartridges" in choice.why
    with pytest.raises(SettingError, match=f"not installed beside.*--vllm_python or {PYTHON_VARIABLE}"):
        chosen_engine("vllm", python=None, model=named(POCKET), device="auto")
    with pytest.raises(SettingError, match="vllm_python=.*has no vllm"):
        chosen_engine("vllm", python=sys.executable, model=named(POCKET), device="auto")


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.0.0", "0.33.0rc1", "dev", ""])
def test_other_versions_than_those_tested_are_refused(environment, version):
    python = environment(version)
    with pytest.raises(SettingError, match=r"has vLLM .*vllm>=0.32,<0.33.*--engine local"):
        chosen_engine("vllm", python=python, model=named(POCKET), device="auto")


def test_where_it_can_be_started_it_is_taken(environment, monkeypatch):
    for python in (environment("0.32.1"), None):
        choice = chosen_engine(None, python=python, model=named(POCKET), device="auto")
        assert choice.version == "0.32.1" and choice.python.endswith("/bin/python")
        assert isinstance(choice.unloaded, UnloadedModel) and choice.why.startswith("vLLM 0.32.1 of /")
        monkeypatch.setenv(PYTHON_VARIABLE, python or "")
    assert chosen_engine("local", python=None, model=named(POCKET), device="auto").unloaded is None


@pytest.mark.parametrize(
    ("options", "device", "told"),
    [
        ({"quantization_config": {"load_in_4bit": True}}, "auto", "has quantised weights.*--engine local"),
        ({}, "cuda:1", "device='cuda:1' is of the engine in process.*CUDA_VISIBLE_DEVICES"),
        ({"device_map": "auto"}, "auto", "device_map='auto' is of the engine in process"),
    ],
)
def test_what_vllm_would_not_do_is_left_to_the_engine_in_process(environment, options, device, told):
    python, model = environment("0.32.0"), named(POCKET, **options)
    with pytest.raises(SettingError, match=told):
        chosen_engine("vllm", python=python, model=model, device=device)
    choice = chosen_engine(None, python=python, model=model, device=device)
    assert choice.unloaded is None and "engine" in choice.why


def changed(folder, file: str, **settings) -> None:
    known = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(known | settings))


@pytest.mark.parametrize(
    ("file", "settings", "told"),
    [
        (
            "generation_config.json",
            {"suppress_tokens": [5, 6]},
            r"bans or forces tokens \(suppress_tokens=\[5, 6\]",
        ),
        (
            "config.json",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}},
            "depend on the length",
        ),
    ],
)
def test_models_that_vllm_computes_otherwise_are_refused(tmp_path, file, settings, told):
    folder = tmp_path / "model"
    save_model(folder)
    UnloadedModel(named(str(folder)))
    changed(folder, file, **settings)
    with pytest.raises(SettingError, match=f"--model=.*{told}.*--engine local"):
        UnloadedModel(named(str(folder)))


def test_an_unloaded_model_is_the_loaded_one_without_its_weights(tmp_path):
    loaded, _ = pocket()
    unloaded = UnloadedModel(named(POCKET, dtype="auto"))
    assert unloaded.dtype == loaded.dtype and unloaded.dtype_name == "float32"
    assert unloaded.generation_config.eos_token_id == loaded.generation_config.eos_token_id
    fill(tmp_path / "runs", a=1)
    (one,) = Shelf(tmp_path / "runs").all()
    assert unreadable_by(unloaded)(one) is None is unreadable_by(loaded)(one)
    unloaded.bound(one.facts.num_tokens)
    assert "leave none to ask at" in unreadable_by(unloaded)(one)
    assert loaded.config.max_position_embeddings > one.facts.num_tokens


@pytest.mark.parametrize(
    "option",
    ["--kv-transfer-config={}", "--middleware=a", "--max_num_seqs=4", "--port=1", "--quantization=fp8"],
)
def test_options_that_are_ours_are_refused(option):
    with pytest.raises(SettingError, match=f"{option.split('=')[0]} is the server's own") as told:
        require_options(["--enforce-eager", option])
    assert "vllm_options" in str(told.value)


def test_local_takes_no_settings_of_vllms(tmp_path):
    fill(tmp_path / "runs", a=1)
    with (
        pytest.raises(AssertionError, match="goes with --engine vllm; leave it out"),
        serving(tmp_path / "runs", "--engine", "local", "--max_model_len", "100"),
    ):
        pass


def residents(folder, spool, **options) -> SpooledResidents:
    model = UnloadedModel(named(POCKET))
    spool.mkdir(exist_ok=True)
    shelf = Shelf(folder, refuses=unreadable_by(model))
    known = {"max_bytes": 10**9, "metrics": Metrics()}
    return SpooledResidents(shelf, model, folder=spool, **(known | options))


def test_the_spool_holds_what_was_taken_composed_and_in_the_models_dtype(tmp_path):
    held = residents(fill(tmp_path / "runs", a=1, b=2), tmp_path / "spool")
    both = held.take(["b", "a"])
    expected = of_text(2).compose([of_text(2), of_text(1)])
    files = OpenCartridges(tmp_path / "spool", max_bytes=10**9)
    for layer, (key, value) in enumerate(zip(*expected.tensors(), strict=True)):
        heads = slice(0, key.shape[0])
        read = files.read(both.name, layer, start=0, stop=both.num_tokens, heads=heads)
        assert torch.equal(read[0].transpose(0, 1), key) and torch.equal(read[1].transpose(0, 1), value)
    assert held.take(["b", "a"]) is both and held.take(["a"]).name != both.name
    of_text(2).save_pretrained(tmp_path / "runs" / "a" / "cartridge")
    assert held.take(["a"]).num_tokens == of_text(2).num_tokens, "a file that is replaced has another name"


def test_files_are_dropped_with_their_cartridges_but_not_at_once(tmp_path, monkeypatch):
    size = of_text(3).nbytes
    held = residents(fill(tmp_path / "runs", a=1, b=2, c=3), tmp_path / "spool", max_bytes=size)
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    files = []
    for name in "abc":
        resident = held.take([name])
        files.append(spool_file(tmp_path / "spool", resident.name))
        held.give_back(resident)
    assert held.count == 1 and all(file.exists() for file in files), "a step may still read them"
    clock[0] = 1000.0
    held.give_back(held.take(["a"]))
    assert [file.exists() for file in files] == [False, False, True]


def test_a_file_that_is_gone_or_that_a_worker_could_not_read_is_written_anew(tmp_path):
    held = residents(fill(tmp_path / "runs", a=1), tmp_path / "spool")
    first = held.take(["a"])
    first.file.unlink()
    second = held.take(["a"])
    mark_lost(tmp_path / "spool", second.name)
    third = held.take(["a"])
    assert len({first.name, second.name, third.name}) == 3 and third.file.exists() and not third.lost
    assert held.take(["a"]) is third and held.count == 1


def test_numbers_that_8_bits_cannot_hold_are_warned_of(tmp_path, caplog):
    loud = of_text(1)
    keys, values = ([x.detach().clone() for x in side] for side in loud.tensors())
    values[1][0, 3, 2] = 1000.0
    type(loud)(keys, values, provenance=loud.provenance).save_pretrained(tmp_path / "runs" / "loud")
    fill(tmp_path / "runs", quiet=1)
    with caplog.at_level(logging.WARNING):
        residents(tmp_path / "runs", tmp_path / "spool").take(["loud"])
        residents(tmp_path / "runs", tmp_path / "spool", fp8=True).take(["quiet"])
    assert not caplog.records
    residents(tmp_path / "runs", tmp_path / "spool", fp8=True).take(["loud"])
    assert "loud holds numbers up to 1000, and vLLM's cache of 8 bits" in caplog.text


def test_a_corpus_is_left_to_vllms_own_cache(tmp_path):
    sha = of_text(1).provenance.corpus_sha256
    held = residents(fill(tmp_path / "runs", a=1), tmp_path / "spool", corpora={sha: [5, 6, 7]})
    corpus = held.take(["a:icl"])
    assert (corpus.ids, corpus.name, corpus.num_tokens, corpus.nbytes) == ([5, 6, 7], None, 3, 0)
