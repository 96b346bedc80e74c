"""`benchmarks.vllm_serving` at tiny sizes: vLLM's own client asks both sides, and each request gets all of its tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import vllm_serving

pytestmark = pytest.mark.vllm


def test_both_sides_are_measured_at_one_kv_memory(capsys, tmp_path, figure):
    python = Path(os.environ["VLLM_PYTHON"])
    figures = vllm_serving.main(
        ["--quick", "--vllm-python", str(python), "--json", str(tmp_path / "figures.json")]
    )
    results = figures["results"]
    assert [(one["load"], one["is_icl"], one["tokens"]) for one in results] == [
        (load, tokens == 100, tokens)
        for load in (vllm_serving.EACH, vllm_serving.ONE)
        for tokens in (100, 20)
    ]
    assert all(len(one["tokens_per_s"]) == 2 and min(one["tokens_per_s"]) > 0 for one in results)
    figure(capsys.readouterr().out)
