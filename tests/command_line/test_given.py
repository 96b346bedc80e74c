"""Messages name settings as their user gave them: the option that was typed, or the key and the file."""

from __future__ import annotations

import pytest

from lit_cartridges.command_line.given import as_typed, given_settings


@pytest.mark.parametrize(
    ("message", "typed", "told"),
    [
        (
            "num_tokens=0 must be at least 1",
            ["--model.num_tokens", "0"],
            "--model.num_tokens=0 must be at least 1",
        ),
        ("std=-1.0 must be above 0", ["--model.init.std=-1"], "--model.init.std=-1.0 must be above 0"),
        ("std=-1.0 must be", ["--model.init.init_args.std=-1"], "--model.init.init_args.std=-1.0 must be"),
        # Of two with the same last name the one with the value that is told.
        ("seed=-1 must be", ["--model.seed=3", "--data.seed=-1"], "--data.seed=-1 must be"),
        ("seed=-1 must be", ["--data.seed=-1", "--model.seed=3"], "--data.seed=-1 must be"),
        # A default keeps its name, also beside an option with the same value.
        ("min_x=5, max_x=1: no", ["--data.max_x=1", "--trainer.max_steps=5"], "min_x=5, --data.max_x=1: no"),
        # What another calls path, by its place; and what was not given, below what was.
        ("path='/a/b': no such", ["--data.corpus", "/a/b"], "--data.corpus='/a/b': no such"),
        ("init.path=None: give one", ["--model.init", "Text"], "--model.init.path=None: give one"),
        # Inside a value that was typed as one.
        (
            "every_n_steps=0 must",
            ['--trainer.callbacks=[{"init_args": {"every_n_steps": 0}}]'],
            "--trainer.callbacks=0 must",
        ),
        ("nothing to name", ["--a=1"], "nothing to name"),
        ("--a=1: as it is", ["--b.a=1"], "--a=1: as it is"),
    ],
)
def test_typed_options(message, typed, told):
    assert as_typed(message, given_settings(typed)) == told


def test_a_recipe_s_key_is_told_with_the_file_unless_it_was_overridden(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model:\n  num_tokens: 0\n  init: {class_path: RandomVectors, init_args: {std: -2}}\n")
    given = given_settings(["--config", str(recipe)])
    assert as_typed("num_tokens=0 must be", given) == f"model.num_tokens=0 must be (in {recipe})"
    assert as_typed("std=-2.0 must be", given) == f"model.init.std=-2.0 must be (in {recipe})"
    given = given_settings([f"--config={recipe}", "--model.num_tokens=0"])
    assert as_typed("num_tokens=0 must be", given) == "--model.num_tokens=0 must be"
