"""Two processes of a run share the engine that the first of them starts, and record what each would have written alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_cartridges.conversations.recording import Recording
from tests.runs.test_child_process import all_gone
from tests.teachers.engine_program import FACTS, engine_environment
from tests.tiny_run import tokenizer

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]


def fit(folder: Path, model: str, corpus: str, *options: str, **environment: str) -> None:
    command = [
        sys.executable,
        "-m",
        "lit_cartridges.cli",
        "fit",
        "--model.model",
        model,
        "--model.num_tokens",
        "8",
    ]
    command += [
        "--data.corpus",
        corpus,
        "--data.source.min_chunk_tokens",
        "20",
        "--data.source.max_chunk_tokens",
        "40",
    ]
    command += ["--data.source.question_max_tokens", "5", "--data.source.answer_max_tokens", "8"]
    command += ["--data.groups_per_round", "1", "--data.source.top_k", "4", "--trainer.max_steps", "4"]
    command += ["--data.num_shards", "2", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    command += ["--trainer.strategy", "ddp", "--trainer.default_root_dir", str(folder), *options]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def recorded(folder: Path) -> dict[int, list[list[list[int]]]]:
    recording = Recording(folder / "recording", tokenizer=tokenizer())
    return {
        group: [[m.token_ids.tolist() for m in c.messages] for c in recording.read_group(group)]
        for group in recording.groups()
    }


def test_one_engine_for_two_processes(model_folder, corpus, tmp_path):
    python, facts = engine_environment(tmp_path / "vllm"), tmp_path / "facts.json"
    fit(tmp_path / "local", model_folder, corpus)
    engine = {"LIT_CARTRIDGES_VLLM": str(python), FACTS: str(facts)}
    fit(tmp_path / "served", model_folder, corpus, "--data.source.teacher", "VLLM", **engine)
    told = json.loads(facts.read_text())
    assert told["starts"] == 1 and "LOCAL_RANK" not in told["env"] and "MASTER_PORT" not in told["env"]
    assert all_gone(told["pids"], limit_s=1.0)
    local, served = recorded(tmp_path / "local"), recorded(tmp_path / "served")
    assert {group % 2 for group in local} == {0, 1}, "both processes have written"
    assert all(served[group] == local[group] for group in local)
