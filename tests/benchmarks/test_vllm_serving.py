"""The benchmark of vLLM's server says so where there is no vLLM; tests/vllm runs it."""

import json

from benchmarks import vllm_serving


def test_without_vllm_it_says_what_makes_one(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    vllm_serving.main(["--vllm-python", str(tmp_path / "python"), "--json", str(figures)])
    assert "make install-vllm" in capsys.readouterr().out and json.loads(figures.read_text())["results"] == []


def test_names_of_cartridges_are_new_for_each_request_or_repeat():
    each, one = (
        vllm_serving.Side(load=load, tokens=9, is_icl=False) for load in (vllm_serving.EACH, vllm_serving.ONE)
    )
    names = [
        side.cartridge(repeat, request) for side in (each, one) for repeat in (-1, 0) for request in (0, 1)
    ]
    assert len(set(names)) == 6 and one.cartridge(0, 0) == one.cartridge(0, 1)
