"""`load_from_checkpoint`: the module of a run, with its settings and its cartridge."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge, LitCartridge
from lit_cartridges.callbacks import CartridgeCheckpoint
from lit_cartridges.errors import SettingError
from lit_cartridges.losses import NextToken, Objective
from lit_cartridges.runs.checkpoint_files import CheckpointFileError
from tests.tiny_run import fit, from_recording, new_module, new_trainer, same_tensors, save_model

SETTINGS = {
    "num_tokens": 9,
    "num_frozen_tokens": 2,
    "learning_rate": 0.03,
    "betas": (0.8, 0.9),
    "final_lr_share": 0.5,
    "gradient_checkpointing": True,
    "loss_chunk_tokens": 7,
    "seed": 3,
}


class Mine(LitCartridge):
    def __init__(
        self, *, half: float = 0.5, name: str = "x", part: Objective | None = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.half, self.name, self.part = half, name, part


class OwnObjective(NextToken):
    pass


@pytest.fixture
def run(tmp_path, model_folder, corpus, recorded):
    """A run of two steps; returns its module, data and checkpoint."""

    def run(kind=LitCartridge, **options):
        module = kind(model=model_folder, **(SETTINGS | options))
        data = from_recording(corpus, recorded, validation=recorded, validation_groups=1)
        fit(
            tmp_path,
            module,
            data,
            CartridgeCheckpoint(),
            max_steps=2,
            enable_checkpointing=True,
            logger=False,
        )
        return module, data, tmp_path / "checkpoints" / "last.ckpt"

    return run


def test_it_has_the_settings_and_the_cartridge_and_scores_the_same(run, tmp_path):
    module, data, path = run(objective=NextToken())
    loaded = LitCartridge.load_from_checkpoint(path)
    assert same_tensors(loaded.state_dict(), module.state_dict())
    assert {name: getattr(loaded, name) for name in SETTINGS} == SETTINGS
    assert type(loaded.objective) is NextToken and loaded.model_name == module.model_name
    assert loaded.student is None
    scores = [new_trainer(tmp_path).validate(one, data)[0]["val/loss"] for one in (module, loaded)]
    assert scores[0] == scores[1]
    known, mine = loaded.cartridge.provenance, module.cartridge.provenance
    assert known.steps == 2 and known.base == mine.base and known.init == "FirstTokens"
    assert known.fingerprint == mine.fingerprint and known.corpus_sha256 == mine.corpus_sha256


def test_its_cartridge_is_one_like_any_other_and_can_be_trained_on(run, tmp_path):
    module, data, path = run()
    loaded = LitCartridge.load_from_checkpoint(str(path), learning_rate=0.25)
    loaded.cartridge.save_pretrained(tmp_path / "saved")
    saved = Cartridge.from_pretrained(tmp_path / "saved")
    assert same_tensors(dict(saved.state_dict()), dict(module.cartridge.state_dict()))
    trainer, curve = fit(tmp_path / "again", loaded, data, max_steps=3)
    assert trainer.global_step == 3 and loaded.learning_rate == 0.25
    assert not same_tensors(loaded.state_dict(), module.state_dict())
    assert torch.isfinite(torch.tensor(curve.losses)).all()


def test_the_model_may_have_moved_and_must_be_the_same(run, tmp_path):
    module, data, path = run()
    moved = save_model(tmp_path / "moved")
    loaded = LitCartridge.load_from_checkpoint(path, model=moved)
    new_trainer(tmp_path).validate(loaded, data)
    weights = new_module(moved).load_teacher()
    weights.get_input_embeddings().weight.data[0, 0] += 1
    weights.save_pretrained(moved)
    with pytest.raises(ValueError, match="made with other weights"):
        new_trainer(tmp_path).validate(LitCartridge.load_from_checkpoint(path, model=moved), data)
    other = save_model(tmp_path / "other", "qwen3")
    with pytest.raises(ValueError, match="head_dim"):
        new_trainer(tmp_path).validate(LitCartridge.load_from_checkpoint(path, model=other), data)


def test_a_module_of_ones_own_has_its_settings_too(run):
    _, _, path = run(Mine, half=0.25, name="a", part=NextToken())
    loaded = Mine.load_from_checkpoint(path)
    assert (loaded.half, loaded.name, loaded.part) == (0.25, "a", None)  # of objects only ours are made
    assert Mine.load_from_checkpoint(path, half=0.75).half == 0.75


def test_what_a_checkpoint_cannot_say_is_asked_for(run, tmp_path):
    _, _, path = run(objective=OwnObjective())
    with pytest.raises(SettingError, match="objective='.*OwnObjective' is a class of your own.*give it"):
        LitCartridge.load_from_checkpoint(path)
    assert type(LitCartridge.load_from_checkpoint(path, objective=OwnObjective()).objective) is OwnObjective
    with pytest.raises(SettingError, match="num_tokens=8: and the checkpoint's cartridge has 9"):
        LitCartridge.load_from_checkpoint(path, num_tokens=8, objective=NextToken())


def test_a_checkpoint_of_another_making_is_refused(tmp_path):
    for name, content in (("foreign", {"state_dict": {}, "global_step": 0, "loops": {}}), ("empty", None)):
        path = tmp_path / name
        path.touch() if content is None else torch.save(content, path)
        with pytest.raises(CheckpointFileError, match=name):
            LitCartridge.load_from_checkpoint(path)
    with pytest.raises(CheckpointFileError, match="nowhere"):
        LitCartridge.load_from_checkpoint(tmp_path / "nowhere")


def test_no_code_and_no_secret_comes_from_a_checkpoint(run):
    _, _, path = run(trust_remote_code=True, token="secret")
    loaded = LitCartridge.load_from_checkpoint(path)
    assert not loaded._student.trust_remote_code and loaded._student.token is None
