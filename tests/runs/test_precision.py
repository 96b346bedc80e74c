"""Frozen weights in ``model.dtype``; cartridge, moments and losses in fp32; nothing else, whoever asks for it."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cascade import CascadingCache, cascade_prefill, streamed_logprobs
from lit_cartridges.cli import main
from lit_cartridges.generation import generate
from lit_cartridges.init import InitContext, RandomVectors
from tests.faults.command import arguments, options
from tests.tiny_models import tiny_model
from tests.tiny_run import (
    fit,
    from_recording,
    new_data,
    new_module,
    same_tensors,
)

MEND = "leave trainer.precision at 32-true and set model.dtype"


@pytest.fixture
def unloaded(monkeypatch):
    monkeypatch.setattr(
        "lit_cartridges.module.lit_cartridge.load_frozen_model",
        lambda *_, **__: pytest.fail("the model was loaded"),
    )


@pytest.mark.parametrize(
    "precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", 16, "bf16", 64]
)
def test_another_precision_is_refused_before_the_model_loads(
    tmp_path, model_folder, corpus, unloaded, precision
):
    with pytest.raises(ValueError, match=MEND):
        fit(tmp_path, new_module(model_folder), new_data(corpus), precision=precision)


@pytest.mark.parametrize(
    "plugin",
    [HalfPrecision("bf16-true"), MixedPrecision("bf16-mixed", "cpu"), DoublePrecision()],
    ids=lambda p: type(p).__name__,
)
def test_so_is_a_precision_plugin(tmp_path, model_folder, corpus, unloaded, plugin):
    with pytest.raises(ValueError, match=rf"trainer.precision='{plugin.precision}': .*{MEND}"):
        fit(tmp_path, new_module(model_folder), new_data(corpus), plugins=[plugin])


@pytest.mark.parametrize(
    "precision", ["bf16-mixed", "16-true", "transformer-engine", "transformer-engine-float16"]
)
def test_the_command_names_the_value_that_was_typed(tmp_path, model_folder, corpus, capsys, precision):
    settings = options(tmp_path / "run", model_folder, corpus)
    with pytest.raises(SystemExit) as end:
        main(arguments("fit", settings | {"trainer.precision": precision}))
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert f"trainer.precision='{precision}': " in told and MEND in told


@pytest.mark.parametrize("precision", ["32-true", 32, "32"])
def test_full_precision_is_taken_by_every_name(tmp_path, model_folder, corpus, recorded, precision):
    fit(
        tmp_path,
        new_module(model_folder),
        from_recording(corpus, recorded),
        precision=precision,
        max_steps=1,
    )


def test_a_run_inside_autocast_is_refused(tmp_path, model_folder, corpus, unloaded):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast.* set model.dtype"):
        fit(tmp_path, new_module(model_folder), new_data(corpus))


def test_a_cartridge_that_was_converted_is_refused(tmp_path, model_folder, corpus, recorded):
    data, module = from_recording(corpus, recorded), new_module(model_folder)
    fit(tmp_path, module, data, max_steps=1)
    with pytest.raises(ValueError, match="is torch.bfloat16, and is trained in fp32"):
        fit(tmp_path, module.bfloat16(), from_recording(corpus, recorded), max_steps=2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_is_trained_is_fp32_whatever_the_model_is(tmp_path, model_folder, corpus, recorded, dtype):
    module = new_module(model_folder, dtype=dtype)
    trainer, curve = fit(tmp_path, module, from_recording(corpus, recorded), max_steps=2)
    assert module.student.dtype == getattr(torch, dtype)
    assert {p.dtype for p in module.cartridge.parameters()} == {torch.float32}
    moments = [
        state[name] for state in trainer.optimizers[0].state.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    assert len(moments) == 8 and {x.dtype for x in moments} == {torch.float32}
    total, token_losses, nll = module.losses(curve.batches[0])
    assert {total.dtype, token_losses.dtype, nll.dtype} == {torch.float32}


@pytest.fixture
def default_dtype():
    yield torch.set_default_dtype
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_torchs_default_dtype_changes_nothing(tmp_path, model_folder, corpus, default_dtype, dtype):
    plain, other = (new_module(model_folder, init=RandomVectors()) for _ in range(2))
    _, curve = fit(tmp_path / "plain", plain, new_data(corpus), max_steps=2)
    default_dtype(dtype)
    _, other_curve = fit(tmp_path / "other", other, new_data(corpus), max_steps=2)
    assert curve.losses == other_curve.losses
    assert same_tensors(plain.state_dict(), other.state_dict())


def readings(model, cartridge):
    """What reading and writing come to: prefilled vectors, scores of new tokens, a cascade's keys and log-probabilities."""
    ids = torch.arange(7, 61)[None]
    keys, values = prefill(model, ids[0, :40])
    made = generate(
        model,
        cartridge,
        ids[:, :9],
        max_new_tokens=5,
        min_new_tokens=5,
        output_scores=True,
        return_dict_in_generate=True,
    )
    sizes = {"sink_tokens": 2, "cascades": 2, "total_tokens": 18, "stride_tokens": 4}
    cache = CascadingCache(config=model.config, **sizes)
    cascade_prefill(model, cache, ids)
    scored = streamed_logprobs(model, CascadingCache(config=model.config, **sizes), ids)
    cascaded = cache.to_cartridge(model)
    return [*keys, *values, *made.scores, scored, *cascaded.tensors()[0], *cascaded.tensors()[1]]


@pytest.mark.parametrize("around", ["autocast to bf16", "autocast to fp16", "default bf16", "default fp64"])
def test_a_model_reads_and_writes_in_its_own_dtype_whatever_is_around(around, default_dtype):
    model = tiny_model("llama")
    cartridge = Cartridge(*prefill(model, list(range(20, 50))), num_frozen_tokens=1)
    before = readings(model, cartridge)
    if around.startswith("default"):
        default_dtype({"bf16": torch.bfloat16, "fp64": torch.float64}[around.split()[-1]])
        after = readings(model, cartridge)
    else:
        with torch.autocast("cpu", {"bf16": torch.bfloat16, "fp16": torch.float16}[around.split()[-1]]):
            after = readings(model, cartridge)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_random_vectors_are_drawn_in_fp32(default_dtype, llama):
    context = InitContext(model=llama, context_ids=list(range(7, 60)), num_tokens=8)
    before = RandomVectors().tensors(context)
    default_dtype(torch.float16)
    after = RandomVectors().tensors(context)
    assert all(torch.equal(a, b) for a, b in zip(before.keys, after.keys, strict=True))
