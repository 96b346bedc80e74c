"""Decoding by CUDA graphs against the same steps without them; on the CPU, `CudaFlash` and `RecordedGraph` play the device."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from lit_cartridges.attention import kernels
from lit_cartridges.models import step_graphs
from lit_cartridges.teachers.decoding_steps import DecodingSteps, Launched
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Request, Sampling
from tests.attention.cuda_flash import CudaFlash
from tests.gpu.agreement import DEVICES, HALVES, MODELS, TOLERANCE, model_on, tokens
from tests.pretend_cuda import pretend_cuda
from tests.recorded_graph import recorded
from tests.tiny_models import VOCAB

CHUNKS = [tokens(n, seed=n).tolist() for n in (30, 41, 17)]


def talk(chunk):
    """A drawn question and the likeliest answer, for rows of unequal length."""
    prompts = [tokens(n + chunk, seed=10 * n + chunk).tolist() for n in (1, 9, 4, 6)]
    options = {"context_ids": CHUNKS[chunk], "seeds": [4 * chunk + i for i in range(len(prompts))]}
    asked = yield Request(prompts=prompts, sampling=Sampling(1.0, 8), **options)
    told = [p + c.token_ids.tolist() for p, c in zip(prompts, asked, strict=True)]
    answers = yield Request(prompts=told, sampling=Sampling(0.0, 16), top_k=5, min_mass=1.0, **options)
    return asked, answers


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", list(MODELS))
def test_graphs_give_what_the_steps_give(name, dtype, device, monkeypatch):
    capturing = device == "cpu" or step_graphs.captures(
        torch.device(device)
    )  # a pretended card has no graphs
    if device == "cpu":
        monkeypatch.setattr(kernels, "has_flash", lambda device: True)
        monkeypatch.setattr(step_graphs, "captured", recorded)
    told, replays = [], []
    for graphs in (True, False):
        monkeypatch.setattr(step_graphs, "captures", lambda device, graphs=graphs: graphs and capturing)
        teacher = LocalTeacher(max_rows=6)
        teacher.bind(model_on(name, device, dtype), None)
        teacher.stop_token_ids = (2,)
        expected = pytest.warns(UserWarning, match="Gemma2") if name == "gemma2" else nullcontext()
        with CudaFlash() if device == "cpu" else nullcontext(), expected:
            told.append([c for both in teacher.converse(map(talk, range(3))) for side in both for c in side])
        replays.append(teacher._idle[0].steps.graphs.replays if teacher._idle else 0)
    assert (replays[0] > 20, replays[1]) == (name != "gemma2" and capturing, 0)
    same = 0
    for with_graphs, without in zip(*told, strict=True):
        pair = with_graphs.token_ids, without.token_ids
        # Kernels that a device chooses by what else it does may round otherwise; up to there both say the same.
        shared = min(map(len, pair))
        differ = np.flatnonzero(pair[0][:shared] != pair[1][:shared])
        shared = int(differ[0]) if len(differ) else shared
        same += len(differ) == 0
        if with_graphs.top_logprobs is not None and shared:
            tops = [torch.tensor(x.top_logprobs.dense()[1][:shared]) for x in (with_graphs, without)]
            assert (tops[0] - tops[1]).norm() <= TOLERANCE[dtype] * tops[1].norm()
    assert same >= 20 if device == "cuda" else same == 24


def test_nothing_is_under_way_when_talks_have_ended(monkeypatch):
    """Since another thread may use the same room next, in a stream of its own."""
    if torch.cuda.is_available():
        pytest.skip("there is a real card")
    ends = []
    ready = Launched.read
    monkeypatch.setattr(Launched, "read", lambda self: ends.append("read") or ready(self))
    launch = DecodingSteps.launch
    monkeypatch.setattr(DecodingSteps, "launch", lambda self: ends.append("launch") or launch(self))
    with pretend_cuda() as waits:
        teacher = LocalTeacher(max_rows=6)
        teacher.bind(model_on("llama", "cuda", torch.bfloat16), None)
        teacher.stop_token_ids = tuple(range(VOCAB))
        list(teacher.converse(map(talk, range(3))))
        assert ends.count("launch") > ends.count("read") and teacher._idle
        assert waits["Stream.synchronize"] == 1


@pytest.mark.gpu
def test_steps_wait_for_nothing_but_their_tokens():
    """torch names every wait that it knows of; the tokens are waited for by an event, which it does not count."""
    teacher = LocalTeacher()
    teacher.bind(model_on("llama", "cuda", torch.bfloat16), None)
    teacher.stop_token_ids = (2,)
    for _ in range(3):  # the first ones run and capture
        list(teacher.converse(map(talk, range(3))))
    batch = teacher._idle[0]
    step, waited = type(batch).step, []

    def watched(self):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(self)
        except RuntimeError as error:
            waited.append(str(error))
            raise
        finally:
            torch.cuda.set_sync_debug_mode("default")

    batch.step = watched.__get__(batch)
    list(teacher.converse(map(talk, range(3))))
    assert batch.steps.graphs.refused is None and not waited
