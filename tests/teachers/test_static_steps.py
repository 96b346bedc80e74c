"""Decoding steps of static shapes: what a CUDA device would be given, and that it could be a CUDA graph.

The CPU plays the device: flash attention is answered by `CudaFlash` in fp64, and graphs by `RecordedGraph`, so that replies
must be exactly those of the plain model.
"""

from __future__ import annotations

import copy
import gc
from collections import Counter
from contextlib import ExitStack, nullcontext
from dataclasses import asdict

import pytest
import torch

from lit_cartridges.attention import kernels, reads_prefixes
from lit_cartridges.models import step_graphs
from lit_cartridges.teachers import decoding_steps
from lit_cartridges.teachers.row_batch import RowBatch
from lit_cartridges.teachers.teacher import Request, Sampling
from tests.attention.cuda_flash import FORWARD, CudaFlash
from tests.dispatched import Dispatched
from tests.recorded_graph import RecordedGraph, recorded
from tests.teachers.test_continuous import (
    ANSWER,
    CHUNKS,
    QUESTION,
    ROWS,
    naive_row,
    prompts_of,
    request,
    talk,
)
from tests.teachers.test_local import teacher_of
from tests.tiny_models import ARCHITECTURES, tiny_config_model


@pytest.fixture
def flash(monkeypatch):
    """Flash attention for rows in fp32, which the CPU rounds no further; contexts and prompts are read as on the CPU."""
    takes, half = kernels.flash_takes, torch.float16
    monkeypatch.setattr(kernels, "has_flash", lambda device: True)
    monkeypatch.setattr(kernels, "flash_takes", lambda *tensors: takes(*(x.to(half) for x in tensors)))
    monkeypatch.setattr(decoding_steps, "_HALVES", (torch.float32,))
    with CudaFlash(wide=True) as mode:
        yield mode


@pytest.fixture
def graphs(monkeypatch):
    """Steps are recorded and replayed; the batches that were begun."""
    begun: list[RowBatch] = []
    begin = RowBatch.begin
    monkeypatch.setattr(step_graphs, "captures", lambda device: True)
    monkeypatch.setattr(step_graphs, "captured", recorded)
    monkeypatch.setattr(RowBatch, "begin", lambda self, stops: begun.append(self) or begin(self, stops))
    return begun


def require_plain_replies(model, results):
    for chunk, pairs in enumerate(results):
        for row, (question, answer) in enumerate(pairs):
            prompt = CHUNKS[chunk % 4] + prompts_of(chunk % 4)[row]
            assert question == naive_row(model, prompt, QUESTION, 100 * (chunk % 4) + row)[0]
            reply, logprobs = naive_row(model, prompt + question, ANSWER, 0)
            assert answer.token_ids.tolist() == reply
            ids, values = answer.top_logprobs.dense()
            assert ids.shape[1] == 4 + chunk % 2
            expected = torch.from_numpy(logprobs).gather(1, torch.from_numpy(ids).long())
            torch.testing.assert_close(torch.from_numpy(values), expected, atol=3e-4, rtol=0)


def test_graphs_give_the_replies_of_the_plain_model(model, flash, graphs):
    """Of every architecture, rows of different chunks entering and leaving; what flash does not take goes on without."""
    softcapped = model.config.model_type == "gemma2"
    with (
        pytest.warns(UserWarning, match="Gemma2.*flash attention does not take")
        if softcapped
        else nullcontext()
    ):
        require_plain_replies(model, teacher_of(model, max_rows=5).converse(talk(c % 4) for c in range(6)))
    (batch,) = set(graphs)
    assert (batch.steps.pooled, batch.steps.graphs.refused is None) == (not softcapped, not softcapped)
    assert (batch.steps.graphs.replays > 20) == batch.steps.pooled


@pytest.fixture
def batch_of(flash):
    """Makes a batch of rows of three chunks and of none, some drawn and all recorded, which go on for 40 tokens."""

    def begun(model, stops=()) -> RowBatch:
        inside.enter_context(reads_prefixes(model))
        teacher = teacher_of(model)
        batch = RowBatch(model, teacher._contexts)
        batch.begin(stops)
        asked = [request(c, Sampling(float(c > 1), 40), top_k=4) for c in range(len(CHUNKS))]
        batch.enter([row for one in asked for row in teacher._rows(one, limited=False)])
        return batch

    with torch.no_grad(), ExitStack() as inside:
        yield begun


class HostReads:
    """Counts what makes Python wait for numbers of the device."""

    names = ("tolist", "numpy", "item", "cpu", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self, monkeypatch, flash) -> None:
        self.counts: Counter[str] = Counter()
        for name in self.names:
            monkeypatch.setattr(torch.Tensor, name, self._counting(name, getattr(torch.Tensor, name), flash))

    def _counting(self, name, own, flash):
        def counted(tensor, *args, **keywords):
            if not flash.answering:
                self.counts[name] += 1
            return own(tensor, *args, **keywords)

        return counted


def test_a_step_waits_for_nothing_and_its_tokens_are_read_during_the_next(
    llama, batch_of, flash, monkeypatch
):
    batch, reads = batch_of(llama), HostReads(monkeypatch, flash)
    assert batch.step() == []
    assert not reads.counts and [len(row.reply) for row in batch.rows] == [0] * len(batch.rows)
    for done in range(1, 6):
        with Dispatched() as step:
            assert batch.step() == []
        assert [len(row.reply) for row in batch.rows] == [done] * len(batch.rows)
        assert not step.waits and not {"lift_fresh", "scalar_tensor"} & set(step.names)
        assert reads.counts == {"numpy": 3 * done}, "tokens, and top k ids and log-probabilities"


def test_steps_of_as_many_rows_are_one_list_of_operators_at_the_same_addresses(llama, batch_of):
    batch, told = batch_of(llama), []
    for _ in range(4):
        with RecordedGraph() as step:
            batch.step()
        told.append(step.signature())
        gc.collect()  # what a step made is gone before the next one
    # The first one makes the cache's tensors; the copies to the host, at the end, are not part of a graph.
    assert told[1][:-3] == told[2][:-3] == told[3][:-3]
    assert sum(call[0] is FORWARD for call in told[1]) == 2 * llama.config.num_hidden_layers


@pytest.mark.parametrize(("kind", "most"), [("llama", 50), ("mistral", 47)])
def test_a_layer_is_so_many_launches_whatever_the_rows_and_chunks(kind, most, batch_of):
    launched = []
    for layers in (2, 4):
        batch = batch_of(
            tiny_config_model(
                kind, **ARCHITECTURES[kind] | {"num_hidden_layers": layers, "layer_types": None}
            )
        )
        batch.step()
        with Dispatched() as step:
            batch.step()
        launched.append(step.launched)
    few, many = launched
    assert (many - few) / 2 <= most
    assert few - (many - few) <= 70, "the rest of the step"


def test_a_row_that_stops_is_decoded_once_more_for_nobody(llama, batch_of):
    def replies(stops) -> dict[tuple, list[int]]:
        batch, ended = batch_of(llama, stops), []
        while batch.rows:
            ended += [row for row, finished in batch.step() if finished == (row.reply[-1] in stops)]
        assert len(ended) == len(set(ended)) == sum(ROWS)
        assert all(len(row.reply) == len(row.top) for row in ended)
        beyond = {row.launched - len(row.reply) for row in ended}
        assert beyond <= {0, 1} and max(beyond) == bool(stops)
        return {(row.context, row.seed): row.reply for row in ended}

    free = replies(())
    stops = {free[at][n] for at, n in zip(free, (0, 1, 4, 9, 20), strict=False)}
    for at, reply in replies(stops).items():
        first = min((i for i, token in enumerate(free[at]) if token in stops), default=39)
        assert reply == free[at][: first + 1]


def test_graphs_are_kept_from_one_time_to_the_next_until_the_weights_move(llama, flash, graphs, monkeypatch):
    made = Counter()
    monkeypatch.setattr(step_graphs, "captured", lambda *step: (made.update(["graph"]), recorded(*step))[1])
    model = copy.deepcopy(llama)
    teacher, asked = teacher_of(model), vars_of(request(0, ANSWER))
    replies, counts = [], []
    for _ in range(3):
        replies.append([c.token_ids.tolist() for c in teacher.complete(**asked)])
        counts.append(made["graph"])
    assert counts[0] > 0 and counts[2] == counts[0] and len(set(graphs)) == 1
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    replies.append([c.token_ids.tolist() for c in teacher.complete(**asked)])
    assert made["graph"] > counts[2] and all(reply == replies[0] for reply in replies)
    teacher.close()
    assert not teacher._idle and teacher._contexts.pool is None


def test_graphs_follow_what_has_grown(llama, flash, graphs, monkeypatch):
    """The cache in the middle of a reply, and the pool for a longer chunk, each while steps of the same kind have graphs."""
    longer = [3 + (i * i) % 90 for i in range(70)]

    def asked(context, rows, tokens):
        prompts = [[40 + i, 50] for i in range(rows)]
        return Request(
            context_ids=context, prompts=prompts, sampling=Sampling(1.0, tokens), seeds=range(rows)
        )

    teacher, plain = teacher_of(llama), teacher_of(llama)
    teacher.stop_token_ids = plain.stop_token_ids = (0,)
    short, long, longest = asked(CHUNKS[0], 2, 20), asked(CHUNKS[0], 2, 120), asked(longer, 2, 120)
    for one in (short, long, long, longest, asked(longer, 9, 20)):
        with monkeypatch.context() as without:
            without.setattr(kernels, "has_flash", lambda device: False)
            expected = [c.token_ids.tolist() for c in plain.complete(**vars_of(one))]
        replays = graphs[0].steps.graphs.replays if graphs and graphs[0].steps.pooled else 0
        assert [c.token_ids.tolist() for c in teacher.complete(**vars_of(one))] == expected
        (batch,) = {batch for batch in graphs if batch.steps.pooled}
        assert batch.steps.graphs.replays > replays + 10
    assert batch.steps.cache.version > 2 and batch.steps.pool.version > 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()], ids=repr
)
def test_a_batch_that_broke_off_is_not_used_again(llama, flash, graphs, monkeypatch, error):
    """Its room had grown in the first layer alone."""
    teacher, long = teacher_of(llama), Sampling(0.0, 200)
    teacher.stop_token_ids = (0,)

    def replies():
        return [c.token_ids.tolist() for c in teacher.complete(**vars_of(request(0, long)))]

    list(teacher.complete(**vars_of(request(0, ANSWER))))
    (batch,) = teacher._idle
    grow, layers = type(batch.steps.cache.layers[0]).grow, batch.steps.cache.layers
    with monkeypatch.context() as short:
        short.setattr(
            type(layers[0]), "grow", lambda layer: _raise(error) if layer is layers[1] else grow(layer)
        )
        with pytest.raises(type(error)):
            replies()
    assert layers[0].keys.shape[1] > layers[1].keys.shape[1] and not teacher._idle
    found = replies()
    teacher.close()
    assert found == replies()


def _raise(error):
    raise error


def test_each_way_to_choose_has_graphs_of_its_own(llama, flash, graphs):
    """Drawn and likeliest tokens, recorded and not, of the same rows in turns."""
    teacher = teacher_of(llama)
    for temperature, top_k in ((1.0, 0), (0.0, 4), (0.0, 0), (1.0, 4), (0.0, 2), (1.0, 0)):
        sampling = Sampling(temperature, 14)
        found = teacher.complete(**vars_of(request(0, sampling, top_k=top_k, min_mass=1.0)))
        for row, completion in enumerate(found):
            reply, logprobs = naive_row(llama, CHUNKS[0] + prompts_of(0)[row], sampling, row)
            assert completion.token_ids.tolist() == reply
            assert (completion.top_logprobs is None) == (top_k == 0)
            if completion.top_logprobs is not None:
                values = torch.from_numpy(completion.top_logprobs.dense()[1])
                expected = torch.from_numpy(logprobs).topk(top_k).values
                torch.testing.assert_close(values, expected, atol=3e-4, rtol=0)
    assert graphs[0].steps.graphs.replays > 30


def test_talks_inside_of_talks_leave_each_others_chunks_alone(llama, flash):
    teacher, order = teacher_of(llama, max_rows=4), [0, 2, 3, 0, 2, 3]
    alone = {c: next(teacher_of(llama).converse([talk(c)])) for c in set(order)}
    for place, pairs in enumerate(teacher.converse(talk(c) for c in order)):
        teacher.complete(**vars_of(request(3, ANSWER, context_ids=[5 + place] * 30)))
        for (q, a), (q2, a2) in zip(pairs, alone[order[place]], strict=True):
            assert (q, a.token_ids.tolist()) == (q2, a2.token_ids.tolist())
    assert not teacher._contexts._wanted


def test_a_model_that_waits_for_the_device_is_named_and_goes_on_without_graphs(flash, graphs):
    model = tiny_config_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda m, args, out: out * float((out > 9e9).any() + 1))
    with pytest.warns(
        UserWarning, match="LlamaForCausalLM: .* it waits for the device in _local_scalar_dense"
    ):
        require_plain_replies(model, teacher_of(model).converse(talk(c) for c in range(4)))
    assert graphs[0].steps.pooled and graphs[0].steps.graphs.replays == 0


def test_what_cannot_be_captured_after_all_is_named_too(llama, flash, graphs, monkeypatch):
    def unharmed(step, beside):
        recorded(step, beside)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(step_graphs, "captured", unharmed)
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        require_plain_replies(llama, teacher_of(llama).converse(talk(c) for c in range(4)))
    assert graphs[0].steps.graphs.refused is not None and graphs[0].steps.graphs.replays == 0


def vars_of(asked) -> dict:
    return asdict(asked) | {"sampling": asked.sampling}
