"""What a capture asks of torch, whose graphs need a card (`tests.gpu` has them)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from time import sleep

import pytest
import torch

from lit_cartridges.models import step_graphs
from lit_cartridges.models.step_graphs import StepGraphs


class Torch:
    """`torch.cuda` as captures know it: the names of pools die with their last graph, and a capture that fails leaves its stream
    current."""

    def __init__(self, monkeypatch) -> None:
        self.stream, self.alive, self.asked = "the caller's", {}, []
        torch_ = self

        class CUDAGraph:
            def __init__(self) -> None:
                self.name = None

            def pool(self):
                return self.name

            def replay(self) -> None:
                return None

            def __del__(self) -> None:
                if self.name is not None:
                    torch_.alive[self.name] -= 1

        for name, answer in {
            "CUDAGraph": CUDAGraph,
            "graph": self.graph,
            "current_stream": lambda: self.stream,
            "set_stream": lambda stream: setattr(self, "stream", stream),
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(step_graphs, "captures", lambda device: True)

    @contextmanager
    def graph(self, graph, *, pool, capture_error_mode):
        assert capture_error_mode == "thread_local"
        self.asked.append(pool)
        graph.name = len(self.alive) if pool is None else pool
        assert pool is None or self.alive[pool] > 0, "INTERNAL ASSERT FAILED: use_count > 0"
        self.alive[graph.name] = self.alive.get(graph.name, 0) + 1
        assert self.stream != "its own", "operation not permitted on a stream that is capturing"
        self.stream = "its own"
        yield
        self.stream = "the caller's"


def test_graphs_share_memory_while_there_are_any(monkeypatch):
    known, graphs = Torch(monkeypatch), StepGraphs(torch.nn.Linear(1, 1))
    done = [
        graphs.run(lambda: None, kind=kind, version=version)
        for version in (1, 2)
        for kind in ("few rows", "many rows")
        for _ in range(3)
    ]
    assert done == 4 * [False, True, True] and graphs.refused is None
    assert known.asked == [None, 0, None, 1] and known.alive == {0: 0, 1: 2}


def test_a_capture_that_fails_leaves_the_streams_as_they_were(monkeypatch):
    known, graphs, runs = Torch(monkeypatch), StepGraphs(torch.nn.Linear(1, 1)), []

    def step() -> None:
        runs.append(known.stream)
        if known.stream == "its own":
            raise RuntimeError("CUDA error: operation not permitted")

    graphs.run(step, kind=0, version=0)
    with pytest.warns(UserWarning, match="Linear: .* not permitted"):
        graphs.run(step, kind=0, version=0)
    assert runs == ["the caller's", "its own", "the caller's"] and known.stream == "the caller's"


def test_threads_capture_one_after_the_other(monkeypatch):
    Torch(monkeypatch)
    together = Barrier(2)

    def decode() -> bool:
        graphs = StepGraphs(torch.nn.Linear(1, 1))
        graphs.run(lambda: None, kind=0, version=0)
        together.wait(10)
        return graphs.run(lambda: sleep(0.1), kind=0, version=0)

    with ThreadPoolExecutor(2) as threads:
        assert [one.result() for one in [threads.submit(decode) for _ in range(2)]] == [True, True]


@pytest.mark.parametrize("devices", [("cpu", "cpu"), ("meta", "cpu")])
def test_without_a_device_that_has_them_there_are_none(devices):
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1, device=x) for x in devices))
    graphs, ran = StepGraphs(model), []
    assert not any(graphs.run(lambda: ran.append(1), kind=0, version=0) for _ in range(3))
    assert len(ran) == 3 and graphs.refused is not None
