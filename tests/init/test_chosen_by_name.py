"""A strategy is chosen by its class name on the command line, and its options follow."""

from __future__ import annotations

import pytest

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.init import INITS, FirstTokens

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
    options = OPTIONS.get(name, {})
    strategy = chosen(tmp_path, name, options)
    assert type(strategy).__name__ == name
    for option, value in options.items():
        assert getattr(strategy, option) == value


def test_a_strategy_may_be_another_ones_option(tmp_path):
    strategy = chosen(tmp_path, "FromCartridge", {"path": "a", "grow": "FirstTokens"})
    assert isinstance(strategy.grow, FirstTokens)
