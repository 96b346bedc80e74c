"""What LitCartridge writes into a checkpoint and goes on from, and the settings that it refuses (laws 6 and 7)."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init import InitialTensors, InitStrategy, RandomVectors
from lit_cartridges.models import load_model
from tests.tiny_run import (
    SaveAt,
    fit,
    from_recording,
    new_data,
    new_module,
    new_trainer,
    same_tensors,
    save_corpus,
    save_model,
)


def test_a_checkpoint_holds_the_cartridge_the_optimizer_and_the_stream_alone(
    tmp_path, model_folder, corpus, recorded
):
    module = new_module(model_folder)
    fit(tmp_path, module, from_recording(corpus, recorded), SaveAt(2, tmp_path / "at.ckpt"))
    checkpoint = torch.load(tmp_path / "at.ckpt", weights_only=True)
    kinds = ("frozen_keys", "frozen_values", "trainable_keys", "trainable_values")
    assert set(checkpoint["state_dict"]) == {
        f"cartridge.{kind}.{layer}" for kind in kinds for layer in (0, 1)
    }
    assert checkpoint["cartridge"] == {
        "base_model": model_folder,
        "corpus_sha256": module.cartridge.provenance.corpus_sha256,
        "num_tokens": 8,
        "num_frozen_tokens": 1,
        "init": "FirstTokens",
        "digest": module.cartridge.provenance.base["digest"],
    }
    (optimizer,) = checkpoint["optimizer_states"]
    assert {len(optimizer["state"])} == {4}
    assert set(checkpoint["SelfStudyDataModule"]) >= {"places"}
    assert (tmp_path / "at.ckpt").stat().st_size < 64_000


@pytest.mark.parametrize("options", [{}, {"uses": 2, "num_shards": 2}], ids=["plain", "uses and shards"])
def test_a_resumed_run_ends_on_the_same_bits(tmp_path, model_folder, corpus, options):
    """Six steps, and three with three more from a checkpoint, whose conversations are made anew."""
    whole = new_module(model_folder)
    trainer, curve = fit(
        tmp_path / "whole",
        whole,
        new_data(corpus, **options),
        SaveAt(3, tmp_path / "at.ckpt"),
        max_steps=6,
        accumulate_grad_batches=1 if options else 2,
    )
    rest = new_module(model_folder)
    again, rest_curve = fit(
        tmp_path / "rest",
        rest,
        new_data(corpus, **options),
        max_steps=6,
        ckpt_path=tmp_path / "at.ckpt",
        accumulate_grad_batches=1 if options else 2,
    )
    assert again.global_step == trainer.global_step == 6
    assert curve.losses[3:] == rest_curve.losses
    assert same_tensors(whole.state_dict(), rest.state_dict())
    for mine, theirs in zip(
        trainer.optimizers[0].state.values(), again.optimizers[0].state.values(), strict=True
    ):
        assert same_tensors(mine, theirs)
    assert trainer.datamodule.stream_state == again.datamodule.stream_state


class Biased(InitStrategy):
    """Starts with biases; after ``times`` cartridges it fails."""

    def __init__(self, times: int) -> None:
        self.times = times

    def tensors(self, context):
        assert self.times > 0, "the init is computed again"
        self.times -= 1
        keys, values = prefill(context.model, list(context.context_ids[: context.num_tokens]))
        return InitialTensors(keys, values, [torch.full(key.shape[:2], 0.5) for key in keys])


def test_the_init_is_not_computed_for_a_checkpoint_that_replaces_it(tmp_path, model_folder, corpus, recorded):
    whole = new_module(model_folder, init=Biased(1))
    fit(tmp_path, whole, from_recording(corpus, recorded), SaveAt(2, tmp_path / "at.ckpt"))
    rest = new_module(model_folder, init=Biased(0))
    trainer = new_trainer(tmp_path, max_steps=4)
    trainer.ckpt_path = tmp_path / "at.ckpt"
    trainer.fit(rest, from_recording(corpus, recorded), weights_only=True)
    assert same_tensors(whole.state_dict(), rest.state_dict())
    assert rest.init_cost is None
    scored = new_module(model_folder, init=Biased(0))
    trainer = new_trainer(tmp_path)
    trainer.ckpt_path = tmp_path / "at.ckpt"
    data = from_recording(corpus, recorded, validation=recorded)
    trainer.validate(scored, data, weights_only=True, verbose=False)
    assert torch.isfinite(trainer.callback_metrics["val/loss"])


def test_the_provenance_names_the_init_that_the_run_began_with(tmp_path, model_folder, corpus, recorded):
    """A checkpoint of version 0.1 does not keep the settings, by which another init would be refused."""
    data = from_recording(corpus, recorded)
    fit(tmp_path, new_module(model_folder), data, SaveAt(1, tmp_path / "at.ckpt"), max_steps=1)
    checkpoint = torch.load(tmp_path / "at.ckpt", weights_only=True)
    del checkpoint["settings"]
    torch.save(checkpoint, tmp_path / "at.ckpt")
    module = new_module(model_folder, init=RandomVectors())
    fit(tmp_path, module, from_recording(corpus, recorded), ckpt_path=tmp_path / "at.ckpt", max_steps=2)
    assert module.cartridge.provenance.init == "FirstTokens"


def test_a_checkpoint_without_a_cartridge_is_refused(tmp_path, model_folder, corpus, recorded):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    trainer = new_trainer(tmp_path, max_steps=1)
    trainer.ckpt_path = tmp_path / "other.ckpt"
    with pytest.raises(ValueError, match="other.ckpt holds no cartridge"):
        trainer.fit(new_module(model_folder), from_recording(corpus, recorded), weights_only=True)


@pytest.mark.parametrize("known_early", [False, True])
@pytest.mark.parametrize("change", ["model", "corpus", "num_tokens", "num_frozen_tokens"])
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path, model_folder, corpus, recorded, change, known_early
):
    fit(
        tmp_path,
        new_module(model_folder),
        from_recording(corpus, recorded),
        SaveAt(1, tmp_path / "at.ckpt"),
        max_steps=1,
    )
    module = {"model": model_folder, "num_tokens": 8, "num_frozen_tokens": 1}
    if change == "model":
        module["model"] = save_model(tmp_path / "other")  # as good as the same, but for one weight
        other = load_model(module["model"])
        other.get_input_embeddings().weight[0, 0] += 1
        other.save_pretrained(module["model"])
    elif change == "corpus":
        corpus = save_corpus(tmp_path / "other.txt", seed=5)
    else:
        module[change] += 1
    name = "data.corpus" if change == "corpus" else f"model.{change}"
    trainer = new_trainer(tmp_path, max_steps=4)
    if known_early:
        trainer.ckpt_path = tmp_path / "at.ckpt"
    with pytest.raises(ValueError, match=f"the checkpoint was made with {name}=.* and this run has"):
        trainer.fit(
            new_module(**module),
            from_recording(corpus, recorded),
            ckpt_path=None if known_early else tmp_path / "at.ckpt",
            weights_only=True,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frozen_tokens": -1}, "num_frozen_tokens=-1 must be at least 0"),
        ({"num_frozen_tokens": 8}, "num_frozen_tokens=8, num_tokens=8: at least one position"),
        ({"num_tokens": 0}, "num_tokens=0 must be at least 1"),
        ({"num_tokens": 8.0}, "num_tokens=8.0 must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan must be a finite number"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\) must be below 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"dtype": "int8"}, "dtype='int8' must be one of auto, float32, bfloat16, float16"),
    ],
)
def test_bad_settings_are_named_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        new_module("nowhere", **options)


def test_settings_that_only_the_config_can_judge_fail_before_the_model_loads(
    tmp_path, model_folder, corpus, monkeypatch
):
    monkeypatch.setattr(
        "lit_cartridges.module.lit_cartridge.load_frozen_model",
        lambda *_, **__: pytest.fail("the model was loaded"),
    )

    def refused(module, data, message, **options):
        with pytest.raises(ValueError, match=message):
            fit(tmp_path, module, data, **options)

    refused(
        new_module(model_folder, num_tokens=512),
        new_data(corpus),
        r"model.num_tokens=512 .*max_position_embeddings=512",
    )
    other = save_model(tmp_path / "other")
    vocabulary = (tmp_path / "other" / "tokenizer.json").read_text()
    (tmp_path / "other" / "tokenizer.json").write_text(vocabulary.replace('"w1"', '"v1"'))
    refused(
        new_module(model_folder, teacher_model=other),
        new_data(corpus),
        r"model.teacher_model=.* another tokenizer",
    )
    refused(new_module(model_folder), new_data(corpus), r"trainer.max_steps", max_steps=-1)


def test_a_start_from_a_corpus_needs_one(tmp_path, model_folder):
    with pytest.raises(ValueError, match=r"model.init='FirstTokens': .* call module.connect\(data\)"):
        new_trainer(tmp_path, max_steps=1).fit(new_module(model_folder), DataLoader([]))
