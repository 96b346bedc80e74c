"""A training leaves a router beside its cartridges, made of its own recorded questions."""

from __future__ import annotations

import pytest

from lit_cartridges.callbacks import CartridgeCheckpoint, RouterFile
from lit_cartridges.data import RawCorpus
from lit_cartridges.errors import SettingError
from lit_cartridges.losses import NextToken
from lit_cartridges.routing import load_router
from tests.tiny_run import fit, from_recording, new_data, new_module


@pytest.fixture
def negatives(tmp_path):
    path = tmp_path / "general.txt"
    path.write_text("\n".join(f"w{i} w{j} w{i}" for i in range(8) for j in range(20, 26)))
    return path


def test_the_end_of_a_training_writes_it(tmp_path, model_folder, corpus, recorded, negatives):
    module, data = new_module(model_folder), from_recording(corpus, recorded)
    made = RouterFile(negatives=negatives, alpha=0.1, nearest=2)
    fit(tmp_path / "run", module, data, CartridgeCheckpoint(), made, enable_checkpointing=True)
    router = load_router(tmp_path / "run" / "cartridge")
    assert router is not None and (router.layer, router.num_layers, router.nearest) == (1, 2, 2)
    assert len(router.questions) == 13 and len(router.negatives) == 39  # a fifth of 16 and of 48 is held out
    assert router.owner.corpus_sha256 == data.source.material.corpus_sha256
    assert router.negatives_from == "general.txt"


def test_what_cannot_work_is_refused_before(tmp_path, model_folder, corpus, negatives):
    with pytest.raises(
        SettingError,
        match="general.txt., alpha=0.01: a threshold needs at least 99 negatives, and there are 39",
    ):
        RouterFile(negatives=negatives, alpha=0.01)
    raw = new_data(corpus, source=RawCorpus(window_tokens=16), tokens_per_batch=64)
    with pytest.raises(SettingError, match="needs recorded questions: set data.source"):
        fit(
            tmp_path / "raw",
            new_module(model_folder, objective=NextToken()),
            raw,
            RouterFile(negatives=negatives),
        )
