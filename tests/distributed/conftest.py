"""Tiers of their own: they start several processes, a cluster or servers, and some need extra packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TIERS = {
    "distributed": "two gloo processes on the CPU, under DDP and DeepSpeed; `make test-distributed` runs these",
    "slurm": "a SLURM cluster of two nodes on this machine; `make test-slurm` runs these",
    "real": "a real small model and a real text on the CPU; `make test-real` runs these",
    "lm_eval": "lm-evaluation-harness; `make test-lm-eval` runs these",
    "llamacpp": "llama.cpp; `make test-llamacpp` runs these",
    "vllm": "vLLM servers on the CPU; `make test-vllm` runs these",
}


FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Takes a line with what was measured; all of them are printed at the end."""
    return pytestconfig.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    for name, what in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {what}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A tier runs only where -m names it."""
    wanted = config.option.markexpr or ""
    left_out = [i for i in items if any(i.get_closest_marker(t) and t not in wanted for t in TIERS)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
