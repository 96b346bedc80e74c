"""A run goes on with another number of processes: its shards, and its count of batches."""

from __future__ import annotations

import pytest

from lit_cartridges.data.stream import StreamState
from lit_cartridges.runs.run_progress import recount_batches
from tests.tiny_run import new_data, save_corpus


@pytest.fixture
def data(tmp_path):
    def of(num_shards, held=0):
        made = new_data(save_corpus(tmp_path / "corpus.txt"), num_shards=num_shards)
        made.stream_state = StreamState(dict.fromkeys(range(held), (0, 3)))
        return made

    return of


def test_a_stream_keeps_the_shards_that_it_was_dealt_into(data):
    assert data(None)._stream_shards(2) == 2
    assert data(4)._stream_shards(2) == 4
    assert data(None, held=4)._stream_shards(1) == 4
    assert data(4, held=4)._stream_shards(2) == 4


@pytest.mark.parametrize(
    ("num_shards", "held", "processes", "message"),
    [
        (3, 0, 2, r"num_shards=3 must be a multiple of the 2 processes"),
        (None, 1, 2, r"num_shards=1 must be a multiple of the 2 processes .*this checkpoint goes on with"),
        (2, 4, 2, r"num_shards=2, and the checkpoint's stream was dealt into 4; leave it out, or set 4"),
    ],
)
def test_shards_that_cannot_be_shared_are_refused(data, num_shards, held, processes, message):
    with pytest.raises(ValueError, match=message):
        data(num_shards, held)._stream_shards(processes)


def test_batches_are_recounted_with_those_under_way():
    counts = {"ready": 7, "started": 7, "processed": 7, "completed": 6}
    progress = {"total": dict(counts), "current": dict(counts), "is_last_batch": False}
    checkpoint = {"global_step": 7, "loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}
    recount_batches(checkpoint, 2)
    recounted = {"ready": 14, "started": 14, "processed": 14, "completed": 13}
    assert progress == {"total": recounted, "current": recounted, "is_last_batch": False}


@pytest.mark.parametrize(
    ("in_epoch", "over", "now"), [(3, False, 2), (4, False, 4), (6, False, 6), (6, True, 0)], ids=str
)
def test_the_batches_of_an_epoch_are_recounted_for_themselves(in_epoch, over, now):
    """Two a step then and two a step now: within a step its first does not count, and a full epoch that is over is left."""
    progress = {
        name: {"ready": ready, "completed": ready} for name, ready in (("total", 12), ("current", in_epoch))
    }
    loop = {
        "epoch_loop.batch_progress": progress,
        "epoch_progress": {"total": {"ready": 2, "completed": 1 + over}},
    }
    settings = {"trainer.accumulate_grad_batches": 2}
    recount_batches({"global_step": 6, "settings": settings, "loops": {"fit_loop": loop}}, 2, 6)
    assert progress["current"] == {"ready": now, "completed": now}
    recount_batches({"global_step": 6, "settings": settings, "loops": {"fit_loop": loop}}, 4, 12)
    assert progress["total"] == {"ready": 24, "completed": 24}
    assert progress["current"] == {"ready": 2 * now, "completed": 2 * now}
