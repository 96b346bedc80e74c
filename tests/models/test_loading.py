"""Models by name: Hub ids, folders and ``package:`` names; frozen, whole, and without a stranger's code (laws 7, 11, 12)."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import lit_cartridges
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cli import main
from lit_cartridges.models import ModelError, load_config, load_model, load_tokenizer, resolve
from lit_cartridges.models.base_weights import base_of
from tests.saved_models import MULTIMODAL, TENSORS, change_json, change_tensors, save_multimodal
from tests.tiny_models import tiny_model
from tests.tiny_run import fit, new_data, new_module, save_model


def test_hub_ids_and_folders_stay_as_they_are():
    assert resolve("meta-llama/Llama-3.2-3B") == "meta-llama/Llama-3.2-3B"
    assert resolve("./folder") == "./folder"


def test_a_package_name_is_a_folder_of_that_package():
    inside = Path(lit_cartridges.__file__).parent / "pocket" / "model"
    assert Path(resolve("package:lit_cartridges.pocket/model")) == inside


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
def test_a_model_comes_frozen_in_eval_mode_and_in_the_wanted_dtype(dtype, tmp_path):
    name = save_model(tmp_path)
    model = load_model(name, dtype=dtype)
    assert model.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert model.config._name_or_path == name


def test_the_device_auto_is_cuda_where_there_is_one(tmp_path):
    name = save_model(tmp_path)
    assert load_model(name, device="auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert load_model(name).device.type == "cpu"


def test_config_and_tokenizer_need_no_weights(tmp_path):
    name = save_model(tmp_path)
    (tmp_path / TENSORS).unlink()
    assert load_config(name).num_hidden_layers == 2
    assert load_tokenizer(name).convert_tokens_to_ids("w0") == 7


@pytest.mark.parametrize("kind", sorted(MULTIMODAL))
def test_a_multimodal_model_loads_by_name_with_the_text_logits_of_its_own_class(kind, tmp_path):
    theirs, ids = save_multimodal(tmp_path, kind), torch.randint(3, 80, (1, 12))
    with torch.no_grad():
        torch.testing.assert_close(load_model(str(tmp_path))(ids).logits, theirs(input_ids=ids).logits)


def test_a_cartridge_trains_on_a_multimodal_model_by_name(tmp_path, corpus):
    save_multimodal(tmp_path / "model", "qwen3_vl")
    module = new_module(str(tmp_path / "model"))
    _, curve = fit(tmp_path, module, new_data(corpus), max_steps=2)
    assert len(curve.losses) == 2 and type(module.student).__name__ == "Qwen3VLForConditionalGeneration"


def test_a_text_model_and_its_pickle_are_the_same_model(tmp_path):
    name, ids = save_model(tmp_path), torch.arange(3, 20)[None]
    torch.save(load_file(tmp_path / TENSORS), tmp_path / "pytorch_model.bin")
    (tmp_path / TENSORS).unlink()
    model = load_model(name)
    assert torch.equal(model(ids).logits, tiny_model("llama")(ids).logits)
    assert base_of(model)["digest"] == base_of(load_model(save_model(tmp_path / "safe")))["digest"]


def without(part):
    return lambda folder: change_tensors(
        folder, lambda all_: {k: v for k, v in all_.items() if part not in k}
    )


def with_tensor(name):
    return lambda folder: change_tensors(folder, lambda all_: all_ | {name: torch.zeros(32)})


def config(**changes):
    return lambda folder: change_json(folder / "config.json", **changes)


def content(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def cut(folder):
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: len(data) // 2])


def index(text):
    def spoil(folder):
        (folder / TENSORS).rename(folder / "part.safetensors")
        (folder / f"{TENSORS}.index.json").write_text(text)

    return spoil


def pickled(content):
    def spoil(folder):
        (folder / TENSORS).unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without("layers.1.mlp.up_proj"), r"files lack 1 weights of LlamaForCausalLM .*layers.1.mlp.up_proj"),
        (without("lm_head"), r"files lack 1 weights .*lm_head.weight"),
        (config(num_hidden_layers=3), r"files lack 9 weights .*layers.2.input_layernorm"),
        (config(num_hidden_layers=1), r"files hold 9 weights that its config leaves out .*layers.1"),
        (config(vocab_size=98), r"other shapes .*lm_head.weight: \(97, 32\) against \(98, 32\)"),
        (with_tensor("model.layers.0.self_attn.q_proj.bias"), r"leaves out .*q_proj.bias"),
        (config(model_type="bert"), "BertLMHeadModel reads in both directions"),
        (config(model_type="t5"), "'t5' is no causal language model"),
        (config(model_type="\x1b[31m"), r"cannot be loaded"),
        (config(hidden_size="wide"), "hidden_size"),
        (config(attn_implementation="someone/kernel"), "names code to run .*someone/kernel"),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), "cannot be loaded .*optimum"),
        (content("config.json", b"{"), "one of its files is not JSON"),
        (content("config.json", b"\xff\xfe"), "one of its files is not JSON"),
        (content("config.json", b"null"), "config.json is no JSON object"),
        (content("config.json", b"{}"), "no model_type"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / TENSORS).unlink(), "no file named model.safetensors"),
        (cut, "file model.safetensors is truncated or damaged"),
        (content(TENSORS, b""), "file model.safetensors is truncated or damaged"),
        (index("{"), "not JSON"),
        (index("{}"), "index.json has no weight_map"),
        (
            index(json.dumps({"weight_map": {"lm_head.weight": "gone.safetensors"}})),
            "gone.safetensors is missing",
        ),
        (pickled(b""), "truncated or damaged"),
        (pickled(b"\x80\x02cos\nsystem\nU\x04trueR."), "a pickle that asks for more than tensors"),
    ],
)
def test_a_spoiled_folder_is_refused_in_one_line_that_names_it(spoil, told, tmp_path):
    name = save_model(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelError, match=f"^model={name!r}: .*{told}") as error:
        load_model(name)
    line = str(error.value)
    assert line.isprintable() and "weights_only" not in line and "ignore_mismatched" not in line


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "no folder ''"),
        ("/no/such/folder", "no folder '/no/such/folder'"),
        ("nobody/nothing", "the Hub cannot be reached"),
        ("two words", "neither a folder here nor a Hub id"),
    ],
)
def test_a_name_of_nothing_is_refused_by_config_tokenizer_and_model(name, told):
    for load in (load_config, load_tokenizer, load_model):
        with pytest.raises(ModelError, match=f"^model.model={name!r}: .*{told}"):
            load(name, setting="model.model")


def test_weights_that_are_tied_or_stand_beside_the_model_are_no_fault(tmp_path):
    save_model(tmp_path)
    change_json(tmp_path / "config.json", tie_word_embeddings=True)
    without("lm_head")(tmp_path)
    with_tensor("v_head.weight")(tmp_path)
    model = load_model(str(tmp_path))
    assert model.lm_head.weight is model.model.embed_tokens.weight


CODE = """
from pathlib import Path
Path({ran!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "own"
class Model(LlamaForCausalLM):
    config_class = Config
class Tok(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A model that needs code of its own, and the file that this code would leave."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path / "modules")])
    folder, ran = tmp_path / "model", tmp_path / "ran"
    save_model(folder)
    (folder / "own.py").write_text(CODE.format(ran=str(ran)))
    change_json(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="Tok",
        auto_map={"AutoTokenizer": [None, "own.Tok"]},
    )
    return str(folder), ran


@pytest.mark.parametrize("load", [load_config, load_tokenizer, load_model])
def test_code_of_a_model_runs_when_the_user_says_so_and_never_before(load, with_code):
    name, ran = with_code
    with pytest.raises(ModelError, match="needs code of its own .* trust_remote_code"):
        load(name)
    assert not ran.exists()
    load(name, trust_remote_code=True)
    assert ran.exists()


def test_a_tokenizer_of_code_is_not_replaced_by_another_one(with_code):
    """Its config is of a kind that transformers knows, for which it would take the usual tokenizer, without a word."""
    name, ran = with_code
    shutil.copy(Path(save_model(Path(name).parent / "plain", "qwen2")) / "config.json", name)
    with pytest.raises(ModelError, match="needs code of its own"):
        load_tokenizer(name)
    assert not ran.exists()


def test_chat_runs_code_of_the_model_that_a_cartridge_names_by_its_option_alone(
    with_code, tmp_path, capsys, monkeypatch
):
    """Whoever answers "y" to whatever is asked does not allow it."""
    name, ran = with_code
    model = tiny_model("llama")
    Cartridge(
        *prefill(model, range(3, 20)),
        provenance=Provenance(base_model=name, fingerprint=Fingerprint.of_config(model.config)),
    ).save_pretrained(tmp_path / "made")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    with pytest.raises(SystemExit) as end:
        main(["chat", str(tmp_path / "made")])
    told = capsys.readouterr()
    assert end.value.code == 2 and told.err.count("\n") == 1 and "--trust_remote_code" in told.err
    assert not ran.exists() and not told.out
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    main(["chat", str(tmp_path / "made"), "--trust_remote_code"])
    assert ran.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["perplexity", "--corpora=[{corpus}]"],
        ["passkey", "--lengths=[50]"],
        ["evaluate", "--task=QuestionFile", "--task.path={corpus}", "--systems=[no_context]"],
        ["fit", "--data.corpus={corpus}", "--model.num_tokens=8", "--trainer.accelerator=cpu"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_runs_code_of_a_model_unasked(arguments, with_code, tmp_path, corpus, capsys):
    name, ran = with_code
    corpus = corpus if arguments[0] != "evaluate" else str(tmp_path / "questions.jsonl")
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "w1", "answer": "w2"}) + "\n")
    setting = f"--model.model={name}" if arguments[0] == "fit" else f"--model={name}"
    more = [f"--trainer.default_root_dir={tmp_path / 'run'}"] if arguments[0] == "fit" else []
    with pytest.raises(SystemExit) as end:
        main([*(argument.format(corpus=corpus) for argument in arguments), setting, *more])
    assert end.value.code == 2 and "needs code of its own" in capsys.readouterr().err
    assert not ran.exists()


HUB = """
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.models import ModelError, load_model, load_tokenizer
first, second = load_model("org/m"), load_model("org/m", revision="v2")
load_tokenizer("org/m", revision="v2")
assert base_of(first)["commit"] == "a" * 40 and "revision" not in base_of(first)
assert base_of(second)["commit"] == "b" * 40 and base_of(second)["revision"] == "v2"
assert base_of(first)["digest"] != base_of(second)["digest"]
assert base_of(load_model("org/m", revision="b" * 40))["digest"] == base_of(second)["digest"]
for revision in ("v3", "../../m"):
    try:
        load_model("org/m", revision=revision)
    except ModelError as error:
        assert f"model='org/m' (revision='{revision}')" in str(error), error
    else:
        raise AssertionError(revision)
print("fine")
"""


def test_a_revision_of_the_hub_is_what_loads_and_its_commit_is_known(tmp_path):
    """On the Hub's cache, without a network, in a process that knows no other cache."""
    for commit, ref, kind in (("a" * 40, "main", "llama"), ("b" * 40, "v2", "qwen2")):
        repository = tmp_path / "models--org--m"
        save_model(repository / "snapshots" / commit, kind)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "fine\n", done.stderr


def test_a_model_spread_by_a_device_map_answers_as_a_whole_one(tmp_path):
    """A part of it rests on a disk here; on GPUs, the same hooks move hidden states between them."""
    pytest.importorskip("accelerate")
    from lit_cartridges.models import stays_in_place

    name, ids = save_model(tmp_path), torch.arange(3, 20)[None]
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = load_model(name, device_map=places)
    assert stays_in_place(model) and not stays_in_place(AutoModelForCausalLM.from_pretrained(name))
    torch.testing.assert_close(model(ids).logits, tiny_model("llama")(ids).logits)
    with pytest.raises(ModelError, match="device_map"):
        load_model(name, device_map="nowhere")
