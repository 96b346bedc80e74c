"""The tier's marker, and two real servers."""

from __future__ import annotations

import os

import pytest

from benchmarks._vllm_server import VllmServer
from tests.distributed.conftest import (
    figure,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_terminal_summary,
)

# The tiers are declared there, and pytest reads that file only where it looks for tests.
__all__ = ["figure", "pytest_collection_modifyitems", "pytest_configure", "pytest_terminal_summary"]


@pytest.fixture(scope="session")
def servers(tmp_path_factory):
    """Two vLLM servers with the bundled model; the last test kills the second."""
    folder = tmp_path_factory.mktemp("servers")
    python = os.environ.get("VLLM_PYTHON")
    assert python, (
        "VLLM_PYTHON must name the interpreter of vLLM's environment; `make test-vllm` installs it and sets it"
    )
    started = [VllmServer(python=python, log=folder / f"server-{number}.log") for number in range(2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.stop()
