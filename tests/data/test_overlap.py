"""Conversations that are written while the run trains are those that are written between its steps."""

from __future__ import annotations

import copy
import pickle
import threading
import time

import lightning as L
import pytest
import torch

from lit_cartridges.conversations.recording import Recording
from lit_cartridges.errors import SettingError
from lit_cartridges.teachers import LocalTeacher, OpenAITeacher, TeacherError
from tests.teachers.openai_server import start
from tests.teachers.server_faults import model_answer
from tests.tiny_run import fit, new_data, new_module, new_source, tokenizer


class Watched(LocalTeacher):
    """Says in which thread it writes, and when."""

    def __init__(self, *, fails_at=None):
        super().__init__()
        self.fails_at, self.threads, self.rounds = fails_at, set(), []

    def converse(self, talks):
        self.threads.add(threading.current_thread())
        began = time.monotonic()
        if len(self.rounds) == self.fails_at:
            raise TeacherError("teacher=Watched has had enough")
        try:
            yield from super().converse(talks)
        finally:
            self.rounds.append((began, time.monotonic()))


class Steps(L.Callback):
    """When each batch was begun and done; each takes a while, as that of a larger model."""

    def __init__(self):
        self.spans = []

    def on_train_batch_start(self, *_):
        self._began = time.monotonic()
        time.sleep(0.05)

    def on_train_batch_end(self, *_):
        self.spans.append((self._began, time.monotonic()))


def recorded(folder):
    recording = Recording(folder / "recording", tokenizer=tokenizer())
    return {
        group: [[m.token_ids.tolist() for m in c.messages] for c in recording.read_group(group)]
        for group in recording.groups()
    }


def run(folder, model_folder, corpus, *callbacks, model=(), **options):
    module = new_module(model_folder, **dict(model))
    _, curve = fit(folder, module, new_data(corpus, **options), *callbacks, max_steps=8, limit_val_batches=0)
    return curve.losses, [p.detach().clone() for p in module.cartridge.parameters()], recorded(folder)


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"overlap": True}, {}),
        ({"overlap": True}, {"gradient_checkpointing": True}),
        ({"overlap": True, "num_shards": 2}, {}),
        ({"teacher_device": "cpu"}, {}),
    ],
    ids=["thread", "recomputed", "two shards", "copy"],
)
def test_a_run_is_the_same_with_and_without(model_folder, corpus, tmp_path, options, model):
    shared = {key: value for key, value in options.items() if key == "num_shards"}
    losses, cartridge, written = run(tmp_path / "in_turn", model_folder, corpus, model=model, **shared)
    teacher, steps = Watched(), Steps()
    mine, theirs, ahead = run(
        tmp_path / "beside", model_folder, corpus, steps, model=model, teacher=teacher, **options
    )
    assert mine == losses and all(torch.equal(a, b) for a, b in zip(cartridge, theirs, strict=True))
    assert len(written) >= 4 and all(ahead[group] == written[group] for group in written)
    assert threading.main_thread() not in teacher.threads
    met = [(a, b) for a, b in steps.spans for c, d in teacher.rounds if a < d and c < b]
    assert met, "a round is written while steps are trained"


def test_a_copy_leaves_the_run_s_own_model_alone(model_folder, corpus, tmp_path):
    data, module = new_data(corpus, teacher_device="cpu"), new_module(model_folder)
    fit(tmp_path, module, data)
    asked = data.source._asked
    assert asked is not module.student and asked.dtype == module.student.dtype
    assert all(
        torch.equal(a, b) for a, b in zip(asked.parameters(), module.student.parameters(), strict=True)
    )
    assert new_data(corpus).source._asked is None


def test_validation_waits_for_its_turn(model_folder, corpus, tmp_path):
    """Held-out examples are written by the main thread, and the next round by the other at the same time."""
    teacher = Watched()
    data = new_data(corpus, teacher=teacher, overlap=True, validation_groups=2)
    fit(tmp_path, new_module(model_folder), data, val_check_interval=1, max_steps=6, limit_val_batches=2)
    assert threading.main_thread() in teacher.threads and len(teacher.threads) == 2
    spans = sorted(teacher.rounds)
    assert len(spans) > 4 and all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))


def test_an_error_in_the_thread_reaches_the_user(model_folder, corpus, tmp_path):
    data = new_data(corpus, teacher=Watched(fails_at=2), overlap=True)
    with pytest.raises(TeacherError, match="teacher=Watched has had enough"):
        fit(tmp_path, new_module(model_folder), data, max_steps=100)
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor") and t.is_alive()]


def test_a_server_is_asked_for_the_next_round_while_steps_are_trained(model_folder, corpus, tmp_path):
    server, steps = start(model_answer(model_folder)), Steps()
    try:
        teacher = OpenAITeacher(base_urls=server.url, model="m")
        data = new_data(corpus, teacher=teacher, groups_per_round=3)
        fit(tmp_path, new_module(model_folder), data, steps, max_steps=8)
    finally:
        server.stop()
    begun = [s for s in server.times if steps.spans[0][0] < s < steps.spans[-1][1]]
    within = [t for t in begun if any(a < t < b for a, b in steps.spans)]
    assert len(within) >= 4, "requests come while a step is trained, and not between two only"


def test_settings_that_cannot_work_are_refused(model_folder, corpus, tmp_path):
    with pytest.raises(SettingError, match="teacher_device='cpu'.*OpenAITeacher has its own"):
        new_source(teacher=OpenAITeacher(base_urls="http://a", model="m"), teacher_device="cpu")
    with pytest.raises(SettingError, match="teacher_device"):
        new_source(teacher_device="cuda:99")

    class Sharded:
        shards_frozen_models, world_size = True, 2

    with pytest.raises(SettingError, match=r"data\.source\.overlap=True.*Sharded of stage 3"):
        new_source(overlap=True).check_strategy(Sharded())
    with pytest.raises(SettingError, match=r"data\.source\.teacher_device='cpu'.*several processes"):
        new_source(teacher_device="cpu").check_strategy(Sharded())
    new_source().check_strategy(Sharded())
    module = new_module(model_folder, device_map={"": "cpu"})
    with pytest.raises(SettingError, match=r"model\.device_map.*leave one of the two out"):
        fit(tmp_path, module, new_data(corpus, teacher_device="cpu"))


def test_a_source_travels_to_another_process():
    source = new_source(overlap=True)
    assert pickle.loads(pickle.dumps(source)).overlap and copy.deepcopy(source)._turn is not source._turn


@pytest.mark.gpu
def test_on_cuda_a_thread_has_a_stream_of_its_own(model_folder, corpus, tmp_path):
    seen = []

    class Streams(LocalTeacher):
        def converse(self, talks):
            seen.append(torch.cuda.current_stream().cuda_stream)
            yield from super().converse(talks)

    runs = {}
    for overlap in (False, True):
        module = new_module(model_folder)
        data = new_data(corpus, teacher=Streams(), overlap=overlap)
        fit(tmp_path / str(overlap), module, data, accelerator="gpu")
        runs[overlap] = recorded(tmp_path / str(overlap))
    assert all(runs[True][group] == runs[False][group] for group in runs[False])
    default = torch.cuda.default_stream().cuda_stream
    assert seen[0] == default != seen[-1]
