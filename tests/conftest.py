"""Shared by all tests: no network, one thread per worker, tiny random models of real architectures."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import pytest
import torch

from tests.chat_tokenizers import make_tokenizer, tokenizer  # noqa: F401  fixtures
from tests.tiny_models import ARCHITECTURES, tiny_model
from tests.tiny_run import save_corpus, save_model, save_recording

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thorough tests run only where -m names them, or the faults, all of which are wanted then."""
    if not any(name in (config.option.markexpr or "") for name in ("thorough", "faults")):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request: pytest.FixtureRequest):
    """A frozen random fp32 model of each supported architecture in turn."""
    return tiny_model(request.param)


@pytest.fixture
def llama():
    return tiny_model("llama")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama with its tokenizer on disk, for whole runs."""
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path) -> str:
    """The tiny runs' text file."""
    return save_corpus(tmp_path / "corpus.txt")


@pytest.fixture
def recorded(tmp_path, corpus: str) -> str:
    """Conversations about it."""
    return save_recording(tmp_path / "recorded.parquet", corpus=corpus)


@pytest.fixture(autouse=True)
def skip_without_gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked ``gpu`` are the CUDA half of tests that run on the CPU as well; most machines cannot run them.

    `make test-gpu` fails there before it gets here.
    """
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
