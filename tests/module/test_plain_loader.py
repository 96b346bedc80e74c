"""`fit(module, loader)`: any DataLoader of `PackedBatch` trains, as the data module's own does."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from lit_cartridges.data import ExampleStream, packed
from lit_cartridges.data.stream import StreamState
from lit_cartridges.errors import SettingError
from lit_cartridges.init import FromCartridge
from tests.tiny_run import Curve, fit, from_recording, new_module, new_trainer, same_tensors, save_recording


@pytest.fixture
def recorded(tmp_path, corpus):
    return save_recording(tmp_path / "r.parquet", corpus=corpus)


@pytest.fixture
def connected(model_folder, corpus, recorded):
    """A module that knows its corpus, and the examples of the recording, by their group."""
    module, data = new_module(model_folder), from_recording(corpus, recorded)
    module.connect(data)
    return module, data.source.examples(seed=0)


def examples(source, groups=range(4)):
    return [example for group in groups for example in source.examples(group)]


def train(folder, module, loader, **options):
    curve = Curve()
    trainer = new_trainer(folder, curve, **options)
    trainer.fit(module, loader)
    return trainer, curve


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_a_list_of_batches_trains_as_the_stream_that_gave_them(
    tmp_path, model_folder, corpus, recorded, connected, micro_batches
):
    whole = new_module(model_folder, warmup_steps=2)
    _, curve = fit(
        tmp_path, whole, from_recording(corpus, recorded), accumulate_grad_batches=micro_batches, max_steps=4
    )
    module = new_module(model_folder, warmup_steps=2)
    module.connect(from_recording(corpus, recorded))
    loader = DataLoader(curve.batches, batch_size=None)
    trainer, again = train(
        tmp_path, module, loader, accumulate_grad_batches=micro_batches, max_epochs=1, max_steps=-1
    )
    assert trainer.global_step == 4, "the schedule counted the loader's own steps"
    assert again.losses == curve.losses
    assert same_tensors(whole.state_dict(), module.state_dict())


def test_batches_of_ones_own_making_know_of_their_step(tmp_path, connected):
    """The loss of a step is the mean over its answers, however they fall into micro-batches."""
    module, source = connected
    uneven = [e.cut(len(e.token_ids) - i % 3) for i, e in enumerate(examples(source))]
    batches = packed(uneven, 40, batches_per_step=2)
    _, curve = train(
        tmp_path, module, DataLoader(batches, batch_size=None), accumulate_grad_batches=2, max_steps=1
    )
    first, second = batches[:2]
    assert len(first.target_rows) != len(second.target_rows)
    untrained = new_module(module.model_name)
    untrained.connect(module._data)
    whole = packed(uneven, 80)[0]
    assert len(whole.lengths) == len(first.lengths) + len(second.lengths)
    _, once = train(tmp_path, untrained, DataLoader([whole], batch_size=None), max_steps=1)
    assert sum(curve.batch_losses) == pytest.approx(once.batch_losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("batches_per_step", "order"), [(1, [0, 1, 2, 3]), (2, [0, 2, 1, 3])], ids=["unaware", "shuffled"]
)
def test_a_step_of_other_batches_than_its_own_is_refused(tmp_path, connected, batches_per_step, order):
    module, source = connected
    uneven = [e.cut(len(e.token_ids) - i % 3) for i, e in enumerate(examples(source))]
    made = packed(uneven, 40, batches_per_step=batches_per_step)
    loader = DataLoader([made[i] for i in order], batch_size=None)
    with pytest.raises(SettingError, match="the batches of an optimizer step are not one step's"):
        train(tmp_path, module, loader, accumulate_grad_batches=2, max_epochs=1)


def test_what_is_no_packed_batch_is_refused_by_its_name(tmp_path, connected):
    module, _ = connected
    with pytest.raises(TypeError, match="trains on PackedBatch, and the loader gave a dict"):
        train(tmp_path, module, DataLoader([{"input_ids": torch.ones(1)}], batch_size=None), max_epochs=1)


def test_epochs_of_a_stream_go_on_where_its_last_used_batch_ends(tmp_path, connected):
    module, source = connected
    stream = ExampleStream(source, tokens_per_batch=40, groups_per_round=2)
    _, curve = train(
        tmp_path, module, DataLoader(stream, batch_size=None), max_epochs=3, limit_train_batches=2
    )
    whole = iter(ExampleStream(source, tokens_per_batch=40, groups_per_round=2))
    expected = [next(whole) for _ in range(6)]
    assert len(curve.batches) == 6
    for mine, theirs in zip(curve.batches, expected, strict=True):
        assert torch.equal(mine.input_ids, theirs.input_ids)
    assert stream.state == expected[-1].stream_state != StreamState({})


def test_a_stream_in_another_process_is_refused(connected):
    """Its state would stay there."""
    stream = ExampleStream(connected[1], tokens_per_batch=40)
    with pytest.raises(SettingError, match="num_workers=1: the stream makes its batches in the process"):
        next(iter(DataLoader(stream, batch_size=None, num_workers=1)))


def test_a_start_that_reads_no_corpus_needs_none(tmp_path, model_folder, connected):
    module, source = connected
    loader = DataLoader(packed(examples(source), 40), batch_size=None)
    train(tmp_path, module, loader, max_steps=1)
    module.cartridge.save_pretrained(tmp_path / "one")
    alone = new_module(model_folder, init=FromCartridge(path=str(tmp_path / "one")))
    train(tmp_path, alone, loader, max_epochs=1)
    assert alone.material is None and alone.cartridge.provenance.corpus_sha256 == ""
