"""Every init strategy under ZeRO-3: two processes that hold half of the model each start and train one process's cartridge."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges import Cartridge
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.init import INITS
from tests.distributed.processes import results, run_jobs
from tests.tiny_models import tiny_model
from tests.tiny_run import FIRST_WORD, save_corpus, save_model

pytestmark = pytest.mark.distributed  # `make test-distributed`

SHORT = {"num_conversations": 4, "max_query_tokens": 32}
OPTIONS = {
    "Text": {"text": "w3 w1 w4"},
    "Summary": {"chunk_tokens": 60},
    "SampledChunks": {"chunk_tokens": 3},
    "ImportantTokens": SHORT,
    "CascadeTokens": {"sink_tokens": 2, "stride_tokens": 16},
    "AttentionMatching": SHORT,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two optimizer steps with each, by one process and by two; its cartridge before them too."""
    folder = tmp_path_factory.mktemp("inits")
    ids = range(FIRST_WORD, FIRST_WORD + 8)
    Cartridge(*prefill(tiny_model("llama"), list(ids))).save_pretrained(folder / "other")
    options = OPTIONS | {"FromCartridge": {"path": str(folder / "other")}}
    settings = {
        "model": save_model(folder / "model"),
        "corpus": save_corpus(folder / "corpus.txt"),
        "steps": 2,
    }
    for world_size, strategy in ((1, "auto"), (2, "zero3")):
        jobs = [
            {**settings, "name": name, "strategy": strategy, "init": [name, options.get(name, {})]}
            for name in INITS
        ]
        run_jobs(folder / str(world_size), jobs, world_size=world_size)
    return folder


@pytest.mark.parametrize("when", ["started", "cartridge"])
@pytest.mark.parametrize("name", INITS)
def test_the_cartridge_is_that_of_one_process(runs, name, when):
    (theirs,) = results(runs / "1", name, 1)
    for part in results(runs / "2", name, 2):
        assert part[when].keys() == theirs[when].keys()
        for tensor, values in part[when].items():
            torch.testing.assert_close(
                torch.tensor(values),
                torch.tensor(theirs[when][tensor]),
                rtol=1e-4,
                atol=1e-5,
                msg=lambda m, tensor=tensor: f"{tensor}: {m}",
            )
    assert theirs["started"] != theirs["cartridge"]


def test_they_start_differently(runs):
    started = [str(results(runs / "1", name, 1)[0]["started"]) for name in INITS]
    assert len(set(started)) == len(INITS)
