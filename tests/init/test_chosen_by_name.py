"""A strategy is chosen by its class name on the command line, and its options follow; adding one is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.init import INITS, FirstTokens, InitialTensors, InitStrategy
from tests.init.context import CORPUS, OPENING, close, naive_prefill, new_context

ROOT = Path(__file__).parent.parent.parent
OPTIONS = {
    "FirstTokens": {},
    "RandomVectors": {"scale": "matched", "std": 0.5},
    "RandomTokens": {},
    "Text": {"text": "once upon a time"},
    "Summary": {"chunk_tokens": 512, "shrink": 4, "map_prompt": "Shorten this text."},
    "SampledChunks": {"chunk_tokens": 32, "in_order": True},
    "ImportantTokens": {"queries": "corpus", "per": "layer"},
    "AttentionMatching": {"select": "omp", "bias": False},
    "CascadeTokens": {},
    "FromCartridge": {"path": "runs/other/cartridge"},
}


def chosen(tmp_path, name, options):
    (tmp_path / "corpus.txt").write_text("a text\n")
    arguments = [
        "--model.model=none",
        "--model.num_tokens=8",
        f"--data.corpus={tmp_path / 'corpus.txt'}",
        f"--trainer.default_root_dir={tmp_path}",
        f"--model.init={name}",
        *(f"--model.init.{key}={value}" for key, value in options.items()),
    ]
    return CartridgeCLI.run_with(arguments, run=False).model.init


@pytest.mark.parametrize("name", INITS)
def test_the_command_line_knows_it_by_its_name(tmp_path, name):
    strategy = chosen(tmp_path, name, OPTIONS[name])
    assert type(strategy).__name__ == name
    for option, value in OPTIONS[name].items():
        assert getattr(strategy, option) == value


def test_a_strategy_may_be_another_ones_option(tmp_path):
    strategy = chosen(tmp_path, "FromCartridge", {"path": "a", "grow": "FirstTokens"})
    assert isinstance(strategy.grow, FirstTokens)


def test_the_example_of_the_contributors_guide_works(llama):
    guide = (ROOT / "CONTRIBUTING.md").read_text().split("## An init strategy")[1]
    code = re.search(r"```python\n(.*?)```", guide, re.DOTALL).group(1)
    scope: dict = {}
    exec("\n".join(line.removeprefix("   ") for line in code.splitlines()), scope)
    strategy = scope["LastTokens"]()
    assert isinstance(strategy, InitStrategy)
    keys, values, _ = InitialTensors(*strategy.tensors(new_context(llama)))
    assert any(
        _equal([*keys, *values], naive_prefill(llama, ids)) for ids in (CORPUS[-12:], OPENING + CORPUS[-10:])
    )
    with pytest.raises(ValueError, match="num_tokens"):
        strategy.tensors(new_context(llama, 100))


def _equal(mine, theirs):
    try:
        close(mine, theirs)
    except AssertionError:
        return False
    return True
