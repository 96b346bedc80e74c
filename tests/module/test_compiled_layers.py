"""Compiled layers give the losses and gradients of the plain ones, in whole graphs, and attention is one operator in them."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from lit_cartridges.attention import Reading, kernels, opaque, reads_prefixes
from lit_cartridges.attention.reading import PrefixCall
from lit_cartridges.errors import SettingError
from lit_cartridges.module import compiled_layers
from lit_cartridges.module.compiled_layers import CompiledLayers
from tests.attention.cuda_flash import CudaFlash
from tests.dispatched import Dispatched
from tests.gpu.agreement import WINDOW, exact_model
from tests.tiny_models import tiny_config_model, tiny_model
from tests.tiny_run import fit, from_recording, new_module

PREFIX = 7
ROWS = [(5, 3), (9, 4, 2), (1, 30)]


@pytest.fixture(autouse=True)
def _graphs(monkeypatch):
    """Graphs and gradients as on a device, run one operator at a time."""
    monkeypatch.setattr(compiled_layers, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class InsideOperators(CudaFlash):
    """Sees what our operators do inside, which torch hides from modes."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "lit_cartridges":
            return super().__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name.removeprefix("lit_cartridges::")
        self.opened.append(name)
        with self:
            return getattr(opaque, name)._init_fn(*args, **(kwargs or {}))


def drawn_prefix(model, *, biases=False, dtype=torch.float32):
    config = model.config
    heads, layers = config.num_key_value_heads, config.num_hidden_layers
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, PREFIX, width)] * 2 * layers + [(heads, PREFIX)] * layers * biases
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def results(model, prefix, lengths):
    """Hidden states of a packed row behind the prefix, and the prefix's gradients."""
    layers, tokens = model.config.num_hidden_layers, sum(lengths)
    ids = torch.arange(tokens)[None] % 90 + 3
    sides = [prefix[start : start + layers] or None for start in (0, layers, 2 * layers)]
    hidden = model.base_model(
        ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None] + PREFIX,
        use_cache=False,
        reading=Reading(keys=sides[0], values=sides[1], biases=sides[2], lengths=lengths),
    ).last_hidden_state
    return [hidden.detach(), *torch.autograd.grad(hidden.float().sin().sum(), prefix)]


@pytest.mark.parametrize(
    ("name", "biases"), [("llama", True), ("qwen3", False), ("gemma2", False), ("gpt_oss", False)]
)
def test_the_same_in_whole_graphs_that_layers_share(name, biases):
    model = tiny_model(name)
    prefix, compiled = drawn_prefix(model, biases=biases), CompiledLayers(model)
    with reads_prefixes(model):
        compiled.try_out()
        graphs = []
        for lengths in ROWS:
            plain = results(model, prefix, lengths)
            with compiled.in_use():
                ours = results(model, prefix, lengths)
            graphs.append(counters["stats"]["unique_graphs"])
            for mine, theirs in zip(ours, plain, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    kinds = len(set(getattr(model.config, "layer_types", None) or [""]))
    # The first layer's inputs want no gradient: traced once more, as is each kind of layer; and once in trying out.
    assert graphs[-1] == graphs[0] <= kinds + 2 and not counters["graph_break"]


def test_a_graph_holds_attention_as_one_operator():
    model = tiny_model("llama")
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    compiled_layers.BACKEND = backend
    with reads_prefixes(model), CompiledLayers(model).in_use():
        results(model, drawn_prefix(model), (4, 3))
    assert graphs and all(sum("lit_cartridges.attend" in name for name in graph) == 1 for graph in graphs)


def test_readings_end_with_their_graphs():
    model = tiny_model("llama")
    with reads_prefixes(model), CompiledLayers(model).in_use():
        results(model, drawn_prefix(model), (4, 3))
    gc.collect()
    assert not opaque._calls


def test_what_is_no_packed_row_passes_the_plain_layers():
    model, ids = tiny_model("llama"), torch.arange(3, 12)[None]
    with reads_prefixes(model), torch.no_grad():
        plain = model.base_model(ids, use_cache=False, reading=Reading()).last_hidden_state
        with CompiledLayers(model).in_use(), Dispatched() as seen:
            ours = model.base_model(ids, use_cache=False, reading=Reading()).last_hidden_state
    assert torch.equal(ours, plain) and not any("lit_cartridges" in name for name in seen.names)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_flash_attention_inside_of_the_operator(monkeypatch, name):
    """The CPU in the part of a CUDA device; windows hide some of the prefix."""
    monkeypatch.setattr(kernels, "has_flash", lambda device: True)
    monkeypatch.setattr(kernels, "_fused_on_cpu", lambda *tensors: False)
    model = exact_model(name).to(torch.bfloat16)
    lengths = (WINDOW + 9, 3, 8)
    try:
        with InsideOperators() as flash, reads_prefixes(model):
            prefix, tried = drawn_prefix(model, dtype=torch.bfloat16), len(flash.calls)
            plain = results(model, prefix, lengths)
            calls = len(flash.calls) - tried
            # Modes that see operators are not for graphs.
            with torch.compiler.set_stance("force_eager"), CompiledLayers(model).in_use():
                ours = results(model, prefix, lengths)
    finally:
        exact_model.cache_clear()
    layers = model.config.num_hidden_layers
    assert flash.opened == ["attend"] * layers + ["attend_backward"] * layers
    assert len(flash.calls) - tried == 2 * calls
    for mine, theirs in zip(ours, plain, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_strides_and_gradients_are_those_that_torch_is_told(dtype):
    reading = Reading(keys=[torch.zeros(2, PREFIX, 16)], values=[torch.zeros(2, PREFIX, 16)], lengths=(5, 3))
    call = SimpleNamespace(reader=PrefixCall(reading), asked=[0], number=-1)

    class Call:
        reader, asked = call.reader, call.asked

    held = Call()
    opaque._calls[-1] = held
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    own = [draw(1, 8, heads, 16).transpose(1, 2) for heads in (4, 2, 2)]
    prefix = [draw(1, 2, PREFIX, 16), draw(1, 2, PREFIX, 16), None]
    ticket = torch.tensor([-1, 0])
    torch.library.opcheck(
        opaque.attend,
        (*own, *prefix, None, ticket, 0.25, None, None),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    out, lse = opaque.attend(*own, *prefix, None, ticket, 0.25, None, None)
    with torch.no_grad():
        torch.library.opcheck(
            opaque.attend_backward,
            (*(torch.ones_like(out), *own, *prefix, None, ticket, out, lse), 0.25, None, None),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}])
def test_a_run_is_the_plain_run(tmp_path, model_folder, corpus, recorded, options):
    runs = []
    for compile_layers in (False, True):
        module = new_module(model_folder, compile_layers=compile_layers, **options)
        _, curve = fit(tmp_path, module, from_recording(corpus, recorded))
        runs.append((curve.losses, module.state_dict()))
    assert counters["stats"]["unique_graphs"] > 0
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-5)
    for name, tensor in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], tensor, rtol=1e-3, atol=1e-4)


def test_layers_that_break_a_graph_are_refused_before_anything_is_trained(monkeypatch):
    model = tiny_config_model("llama")
    mlp = model.model.layers[1].mlp
    plain = mlp.forward

    def breaks(x):
        torch._dynamo.graph_break()
        return plain(x)

    monkeypatch.setattr(mlp, "forward", breaks)
    with (
        reads_prefixes(model),
        pytest.raises(SettingError, match="compile_layers=True: layer 1 .*; set it to false"),
    ):
        CompiledLayers(model).try_out()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"device_map": "auto"}, "model.device_map='auto' spreads them"),
        ({"quantization_config": {"load_in_4bit": True}}, "the model is quantised"),
    ],
)
def test_models_that_are_not_whole_are_refused_by_name(
    tmp_path, model_folder, corpus, recorded, settings, told
):
    module = new_module(model_folder, compile_layers=True, **settings)
    with pytest.raises(SettingError, match=f"compile_layers=True: .*{told}.*; set it to false"):
        fit(tmp_path, module, from_recording(corpus, recorded))


def test_a_strategy_that_shards_them_is_refused(model_folder):
    module, strategy = new_module(model_folder), SimpleNamespace(shards_frozen_models=True)
    with pytest.raises(SettingError, match="compile_layers=True: .* shards the layers"):
        compiled_layers.require_compilable(module._student, strategy)
