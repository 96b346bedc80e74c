"""The formulas of docs/scaling.md against what transformers and this package really do, on small models.

FLOPs, weights and keys and values must be exact; bytes kept for the backward pass within 2%, peaks within 10%. What two
processes send each other is counted in tests/distributed/test_network_bytes.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks import _scaling_measured as measured
from benchmarks import scaling as script
from benchmarks._rates import rates_of
from benchmarks._scaling_measured import SMALL, config_of, small_llama
from benchmarks.scaling import LLAMA_3_1
from lit_cartridges import losses
from lit_cartridges.attention import reads_prefixes
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.estimates import counts as scaling
from lit_cartridges.estimates import roofline
from lit_cartridges.estimates.machine import Machine
from lit_cartridges.estimates.shapes import Shape
from lit_cartridges.strategies.sharded_weights import sharded_modules

TOLERANCES = {"bytes kept for backward": 0.02, "peak bytes": 0.1}


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def check(found: list[measured.Compared]) -> None:
    for compared in found:
        tolerance = next((x for what, x in TOLERANCES.items() if compared.what.startswith(what)), 0)
        assert compared.formula == pytest.approx(compared.measured, rel=tolerance), compared


@pytest.mark.parametrize("name", [*SMALL, *LLAMA_3_1])
def test_weights_are_those_of_transformers(name):
    shape = (SMALL | LLAMA_3_1)[name]
    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(shape))
    assert Shape.of_config(model.config) == shape
    assert sum(p.numel() for p in model.parameters()) == shape.weights
    units = [sum(p.numel() for p in unit.parameters()) for unit in sharded_modules(model)]
    assert 2 * sum(units) == scaling.gathered_bytes(shape)
    assert 2 * max(units) == scaling.gathered_unit_bytes(shape)
    assert 2 * (shape.weights - sum(units)) == scaling.kept_weight_bytes(shape)


def test_the_published_sizes():
    assert [shape.weights for shape in LLAMA_3_1.values()] == [8030261248, 70553706496, 405853388800]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_a_training_step(name, dtype, recompute):
    check(measured.compare_training(name, SMALL[name], dtype=dtype, recompute=recompute))


@pytest.mark.parametrize("rows_in_fp32", [3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_in_several_chunks(monkeypatch, dtype, rows_in_fp32):
    name = "large vocabulary"
    monkeypatch.setattr(losses, "_FP32_LOGITS", rows_in_fp32 * SMALL[name].vocabulary)
    found = measured.compare_training(name, SMALL[name], dtype=dtype, recompute=True, loss_chunk_tokens=20)
    check(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_generating(name, dtype):
    check(measured.compare_generating(name, SMALL[name], dtype=dtype))


@pytest.mark.parametrize("tokens", [96, 1])
@pytest.mark.parametrize("name", SMALL)
def test_attention_of_padded_rows_on_a_gpu(name, tokens):
    check([measured.compare_plain_attention(name, SMALL[name], tokens=tokens)])


def test_bytes_kept_are_what_autograd_saves():
    """Live bytes, as above, and the storages that autograd packs: two ways to see the same, without recomputing."""
    shape, name = SMALL["wide MLP"], "wide MLP"
    found = measured.compare_training(name, shape, dtype=torch.bfloat16, recompute=False)
    kept = next(compared for compared in found if compared.what.startswith("bytes kept"))
    saved: dict[int, int] = {}
    model, lit, batch = measured.training_setup(name, shape, dtype=torch.bfloat16, recompute=False)
    held = {x.untyped_storage()._cdata for x in (*model.parameters(), *model.buffers())}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in held:
            saved[storage._cdata] = storage.nbytes()
        return x

    with reads_prefixes(model), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        hidden = lit(batch)
    # The answers' hidden states and the gradients that replace them have one size; the index of answers is the batch's own.
    total = sum(saved.values()) + hidden.numel() * hidden.element_size() - batch.target_rows.nbytes
    assert total == pytest.approx(kept.formula, rel=0.02)


def test_cartridge_and_optimizer():
    shape, tokens = SMALL["long cartridge"], 30
    size = (shape.kv_heads, tokens, shape.head_dim)
    tensors = [[torch.randn(size) for _ in range(shape.layers)] for _ in range(2)]
    cartridge = Cartridge(*tensors, num_frozen_tokens=2)
    optimizer = torch.optim.Adam(cartridge.parameters())
    sum(x.sum() for part in cartridge.tensors() for x in part).backward()
    optimizer.step()
    gradients = sum(p.grad.nbytes for p in cartridge.parameters())
    moments = sum(s[m].nbytes for s in optimizer.state.values() for m in ("exp_avg", "exp_avg_sq"))
    bucket = gradients  # DDP's, as large as the gradients
    assert cartridge.nbytes + gradients + moments + bucket == scaling.cartridge_bytes(shape, tokens, 2)
    assert gradients == scaling.ddp_payload_bytes(shape, tokens, 2)


def test_keys_and_values_of_a_chunk():
    shape = SMALL["long cartridge"]
    keys, values = prefill(small_llama(shape, torch.bfloat16), list(range(11)))
    assert sum(x.nbytes for x in (*keys, *values)) == 11 * shape.kv_elements * 2


def test_gathering_is_as_slow_as_the_slowest_link():
    machine = Machine(nvlink_gb_s=400, network_gb_s=10, gpus_per_node=4, link_share=1, hop_us=0)
    assert machine.gather_s(8e9, 1) == 0
    assert machine.gather_s(8e9, 4) == pytest.approx(8 * 3 / 4 / 400)
    assert machine.gather_s(8e9, 8) == pytest.approx(
        8 / 2 / 40
    )  # half comes from the other node, over four cards


def test_a_run_takes_what_its_rows_and_groups_take():
    work = roofline.Work(conversations=6400, rows_per_step=16, rows_per_group=10)
    times = roofline.Times(row_s=2.0, exchange_s=0.5, chunk_s=10.0, replies_s=20.0, token_s=0.1)
    found = rates_of(4, work, times)
    assert found.steps == 6400 // (4 * 16)
    assert found.training_s == found.steps * (4 * 2.0 + 0.5)
    assert found.generating_s == 640 / 4 * 30
    assert found.tokens_per_s == pytest.approx(6400 * 500 / (found.training_s + found.generating_s))


def test_the_script(tmp_path, capsys):
    path, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    options = ["--gpus", "8", "64", "--measure", "--quick", "--json", str(path), "--plot", str(plot)]
    returned = script.main(options)
    figures = json.loads(path.read_text())
    assert figures["results"] == json.loads(json.dumps(returned["results"]))
    cells = {(r["model"], r["strategy"], r["gpus"]): r for r in figures["results"]}
    assert len(cells) == 3 * 3 * 2
    fit = {key for key, r in cells.items() if r["trains"]}
    assert ("8B", "DDP", 8) in fit and ("70B", "DDP", 64) not in fit
    assert ("405B", "ZeRO-3", 8) not in fit and ("405B", "ZeRO-3", 64) in fit
    assert all((r["training_s"] is None) == (not r["trains"]) for r in cells.values())
    out = capsys.readouterr().out
    assert "no figure below comes from an H100" in out and script.DOES_NOT_FIT in out
    assert "FLOPs forward" in out and plot.stat().st_size > 10_000


def test_the_page_holds_what_the_script_prints(capsys):
    script.main([])
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text().splitlines()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) > 90 and set(rows) <= set(page)


def test_an_assumption_is_an_option(capsys):
    def rate(*options: str) -> float:
        (cell,) = script.main(["--models", "8B", "--gpus", "8", *options])["results"][:1]
        return cell["training_tokens_per_s"]

    assert rate("--matmul-share", "0.2") == pytest.approx(rate("--matmul-share", "0.4") / 2, rel=0.02)
    assert rate("--gpu-gb", "24", "--keep-activations") is None
    assert capsys.readouterr().out.count("| `--gpu-gb`") == 3
