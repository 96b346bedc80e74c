"""Tests whose device is called ``pretended`` run on a card that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch

from lit_cartridges.cascade import triton_attention
from tests.pretend_cuda import pretend_cuda

# Where one of several tells as much about where tensors lie, the others are left out.
_LEFT_OUT = {"torch.float16", "float16", "NextToken", "FullDistillation"}


def _words(item: pytest.Item) -> set[str]:
    return set(item.callspec.id.split("-")) if hasattr(item, "callspec") else set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not ("pretended" in _words(item) and _words(item) & _LEFT_OUT)]


@pytest.fixture(autouse=True)
def on_a_pretended_card(request: pytest.FixtureRequest) -> Iterator[None]:
    """Triton's kernels, which need a real one, give way to the plain path."""
    if "pretended" not in _words(request.node):
        yield
        return
    if torch.cuda.is_available():
        pytest.skip("there is a real one")
    kernels = patch.object(triton_attention, "DEVICE_TYPES", set())
    with pretend_cuda(), kernels:
        yield
