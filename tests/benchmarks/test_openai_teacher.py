"""The benchmark itself runs in the vllm tier (tests/vllm); without vLLM it must say what it needs, and `make bench` go on."""

from __future__ import annotations

import json

from benchmarks import openai_teacher


def test_without_a_server_it_says_what_to_do(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    openai_teacher.main(["--vllm-python", str(tmp_path / "python"), "--json", str(figures)])
    assert "no server; `make install-vllm`" in capsys.readouterr().out
    assert json.loads(figures.read_text())["results"] == []
