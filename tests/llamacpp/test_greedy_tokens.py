"""llama.cpp itself reads cartridges of tiny models, and writes what `generate` writes."""

from __future__ import annotations

import copy
import shutil
from itertools import islice

import numpy as np
import pytest
import torch

from lit_cartridges import Cartridge, generate
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Fingerprint, Provenance
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.formats.llamacpp import LlamaCppFormat, restore
from lit_cartridges.generation import greedy
from lit_cartridges.models import load_tokenizer
from tests.documented import ROOT, blocks
from tests.gguf_models import write_gguf
from tests.tiny_models import VOCAB, tiny_config_model
from tests.tiny_run import save_model

llama_cpp = pytest.importorskip("llama_cpp", reason="needs the extra llamacpp: make install-llamacpp")
pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.filterwarnings("ignore:llamacpp files hold"),
]

STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("llama", {}),
    "llama 3's rotation": ("llama", {"rope_parameters": STRETCHED}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
}
POSITIONS, NEW_TOKENS = 37, 24
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}


class Tried:
    """A tiny model, its GGUF file, and a cartridge that is no prefill."""

    def __init__(self, name, folder):
        kind, settings = MODELS[name]
        self.name = name
        self.model = tiny_config_model(kind, **copy.deepcopy(settings))
        self.model.save_pretrained(folder)
        self.gguf = write_gguf(folder / "tiny.gguf", self.model)
        self.cartridge = self.new_cartridge(folder, seed=0)
        self.folder = folder

    def new_cartridge(self, folder, seed):
        draw = torch.Generator().manual_seed(seed)
        keys, values = prefill(self.model, torch.randint(3, VOCAB, (POSITIONS,), generator=draw).tolist())
        moved = [[x + 0.3 * torch.randn(x.shape, generator=draw) for x in side] for side in (keys, values)]
        known = Provenance(base_model=str(folder), fingerprint=Fingerprint.of_config(self.model.config))
        return Cartridge(*moved, provenance=known)

    def state(self, cartridge, dtype=torch.float32):
        file = self.folder / "cartridge.bin"
        LlamaCppFormat().write(cartridge, file, dtype=dtype)
        return file

    def llama(self, dtype=torch.float32, **options):
        cache = {"type_k": TYPES[dtype], "type_v": TYPES[dtype], "flash_attn": dtype != torch.float32}
        given = {"n_ctx": 256, "n_threads": 1, "verbose": False, "logits_all": True}
        return llama_cpp.Llama(str(self.gguf), **{**given, **cache, **options})

    def ours(self, cartridge, prompt):
        ids = generate(
            self.model, cartridge, torch.tensor([prompt]), generation_config=greedy([], NEW_TOKENS)
        )
        return ids[0, len(prompt) :].tolist()


@pytest.fixture(scope="module", params=MODELS)
def tried(request, tmp_path_factory):
    return Tried(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llama_alone(tmp_path_factory):
    return Tried("llama", tmp_path_factory.mktemp("model"))


def prompts(count=12):
    rng = np.random.default_rng(5)
    return [rng.integers(3, VOCAB, rng.integers(1, 20)).tolist() for _ in range(count)]


def theirs(llama, ids):
    return list(islice(llama.generate(ids, temp=0.0, repeat_penalty=1.0), NEW_TOKENS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_greedy_tokens_are_those_of_generate(dtype, tried):
    """One restore serves all prompts: what is behind the cartridge is forgotten, and the cartridge is kept."""
    llama = tried.llama(dtype)
    opening = restore(llama, tried.state(tried.cartridge, dtype))
    for prompt in prompts():
        assert theirs(llama, opening + prompt) == tried.ours(tried.cartridge, prompt)


def test_the_scores_are_those_of_the_model(tried, figure):
    """Compared with what transformers computes with the cartridge as its cache; in 16 bits up to the rounding."""
    prompt = prompts()[0]
    cache = tried.cartridge.as_cache(tried.model)
    mask = torch.ones(1, POSITIONS + len(prompt))
    plain = tried.model(torch.tensor([prompt]), attention_mask=mask, past_key_values=cache).logits[0]
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)):
        llama = tried.llama(dtype)
        restore(llama, tried.state(tried.cartridge, dtype))
        llama.eval(prompt)
        found = torch.from_numpy(llama.scores[POSITIONS : POSITIONS + len(prompt)].copy())
        worst = (found - plain).abs().max().item()
        figure(
            f"{tried.name}, {dtype}: scores differ by at most {worst:.1e}, and reach {plain.abs().max():.1f}"
        )
        assert worst < tolerance


def test_another_cartridge_takes_the_place(llama_alone):
    llama, other = llama_alone.llama(), llama_alone.new_cartridge(llama_alone.folder, seed=9)
    prompt = prompts()[3]
    first = restore(llama, llama_alone.state(llama_alone.cartridge))
    assert theirs(llama, first + prompt) == llama_alone.ours(llama_alone.cartridge, prompt)
    second = restore(llama, llama_alone.state(other))
    assert theirs(llama, second + prompt) == llama_alone.ours(other, prompt)
    assert first[:8] != second[:8], "a prompt for one shares nothing with a slot that holds the other"


def test_composed_cartridges_are_one(llama_alone):
    parts = [llama_alone.cartridge, llama_alone.new_cartridge(llama_alone.folder, seed=9)]
    both, llama = Cartridge.compose(parts), llama_alone.llama()
    opening = restore(llama, llama_alone.state(both))
    assert len(opening) == 2 * POSITIONS - 1
    for prompt in prompts(4):
        assert theirs(llama, opening + prompt) == llama_alone.ours(both, prompt)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {"flash_attn": True}), (torch.float16, {"flash_attn": False}), (torch.bfloat16, {})],
)
def test_a_context_that_would_read_other_numbers_is_refused(dtype, options, llama_alone):
    file = llama_alone.state(llama_alone.cartridge, torch.float16 if dtype == torch.bfloat16 else dtype)
    with pytest.raises(CartridgeFileError, match="llama.cpp does not take .*cartridge.bin"):
        restore(llama_alone.llama(dtype, **options), file)


def test_a_context_without_room_is_refused(llama_alone):
    long = Cartridge.compose([llama_alone.cartridge] * 8)
    with pytest.raises(CartridgeFileError, match="or no room for 289 positions"):
        restore(llama_alone.llama(n_ctx=256), llama_alone.state(long))


def test_a_cartridge_of_another_shape_is_refused(llama_alone, tmp_path):
    other = Tried("qwen3", tmp_path)
    with pytest.raises(CartridgeFileError, match="llama.cpp does not take"):
        restore(llama_alone.llama(), other.state(other.cartridge))


def test_the_lines_of_the_page_are_answered(llama_alone, tmp_path, monkeypatch, capsys):
    """docs/llamacpp.md as it stands, on the tiny model's files."""
    [(_, code)] = blocks((ROOT / "docs" / "llamacpp.md").read_text(), "python")
    assert "256)" in code
    shutil.copy(llama_alone.gguf, tmp_path / "my_text.gguf")
    shutil.copy(llama_alone.state(llama_alone.cartridge, torch.float16), tmp_path / "my_text.bin")
    save_model(tmp_path / "my_model")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("256)", "24)"), "llamacpp.md", "exec"), {})
    tokenizer = load_tokenizer(str(tmp_path / "my_model"))
    attached = llama_alone.cartridge.attach(llama_alone.model, tokenizer)
    assert capsys.readouterr().out.strip() == attached.chat("What is it about?", max_new_tokens=24)
