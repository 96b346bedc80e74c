"""A job that serves: its URL, its key, a question, and its end."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.serving.shelves import SERVED, fill
from tests.slurm.runs import RECIPES, ROOT

pytestmark = pytest.mark.slurm
URL = re.compile(r"serving (http://\S+/v1)$", re.M)


def submit(cluster, folder, *arguments, **environment):
    python_path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    env = {
        "VENV": str(Path(sys.executable).parents[1]),
        "PYTHONPATH": python_path,
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    return cluster.submit(str(RECIPES / "serve.sbatch"), *arguments, env=env, cwd=folder)


def ask(url, path, key, body=None):
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=60) as reply:
        return json.load(reply)


def test_it_prints_its_url_answers_whoever_has_the_key_and_ends_when_told(cluster, tmp_path):
    fill(tmp_path / "runs", text=1)
    job = submit(cluster, tmp_path, "runs", "--engine", "local")
    log = tmp_path / f"cartridge-serve-{job}.log"
    cluster.wait_for(job, unless=lambda: log.exists() and URL.search(log.read_text()) is not None)
    found = URL.search(log.read_text())
    assert found, log.read_text()
    key = tmp_path / f"cartridge-serve-{job}.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and key.read_text().strip() not in log.read_text()
    names = [one["id"] for one in ask(found[1], "/models", key.read_text().strip())["data"]]
    assert names == [SERVED, "text"]
    question = {"role": "user", "content": "of Liran tell me the city ."}
    body = {"model": "text", "messages": [question], "temperature": 0}
    reply = ask(found[1], "/chat/completions", key.read_text().strip(), body)
    assert "Gorholm" in reply["choices"][0]["message"]["content"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(found[1], "/models", "another")
    cluster.call("scancel", "--signal=TERM", job)
    assert cluster.wait_for(job) in ("COMPLETED", "FAILED")
    assert "the server has ended with status" in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((), "no folder is given"), (("nowhere",), "nowhere")],
)
def test_a_job_that_cannot_serve_fails_and_says_why(arguments, told, cluster, tmp_path):
    job = submit(cluster, tmp_path, *arguments)
    assert cluster.wait_for(job) == "FAILED"
    assert told in (tmp_path / f"cartridge-serve-{job}.log").read_text()
