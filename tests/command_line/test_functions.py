"""A function's parameters are the options of a command, in the spellings that people use."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Literal, get_args

import pytest

from lit_cartridges.cli import main
from lit_cartridges.command_line.ending import run_command
from lit_cartridges.command_line.functions import run_function
from lit_cartridges.commands import COMMANDS, load_command
from lit_cartridges.commands.estimate import ChipName
from lit_cartridges.comparison import ComparisonSettings
from lit_cartridges.estimates.chips import CHOICES
from lit_cartridges.pocket.demo import DemoSettings
from lit_cartridges.settings import PositiveFloat, PositiveInt, checked


@checked
def bake(
    cakes: list[str],
    *,
    minutes: PositiveInt = 30,
    sizes: Sequence[PositiveFloat] | None = None,
    names: Sequence[str] | None = None,
    gluten_free: bool = False,
    from_: Literal["flour", "oats"] | None = None,
) -> dict:
    """Bake cakes.

    Args:
        cakes: which ones.
        minutes: in the oven.
    """
    return {key: value for key, value in locals().items() if value != signature(bake).parameters[key].default}


@checked
def book(*, pages: PositiveInt = 1, signed: bool = False, fit_arguments: Sequence[str] = ()) -> tuple:
    """Write a book."""
    return pages, signed, list(fit_arguments)


@pytest.mark.parametrize(
    ("typed", "made"),
    [
        ("a", {"cakes": ["a"]}),
        ("a b --minutes 5", {"cakes": ["a", "b"], "minutes": 5}),
        ("--minutes=5 a", {"cakes": ["a"], "minutes": 5}),
        ("a --sizes 2 3.5", {"cakes": ["a"], "sizes": [2.0, 3.5]}),
        ("a --sizes [2,3.5]", {"cakes": ["a"], "sizes": [2.0, 3.5]}),
        ("a --sizes=2 --sizes+ 3", {"cakes": ["a"], "sizes": [2.0, 3.0]}),
        ("a --names 1 b,c", {"cakes": ["a"], "names": ["1", "b,c"]}),
        ("--gluten_free a", {"cakes": ["a"], "gluten_free": True}),
        ("a --gluten_free", {"cakes": ["a"], "gluten_free": True}),
        ("a --gluten_free true", {"cakes": ["a"], "gluten_free": True}),
        ("--gluten_free false a", {"cakes": ["a"]}),
        ("a --from oats", {"cakes": ["a"], "from_": "oats"}),
    ],
)
def test_spellings(typed, made):
    assert run_function(bake, typed.split(), prog="bake") == made


def test_options_in_a_file(tmp_path):
    (tmp_path / "cake.yaml").write_text("minutes: 7\nsizes: [2]\ngluten_free: true\n")
    made = run_function(bake, ["a", f"--config={tmp_path / 'cake.yaml'}", "--minutes=8"], prog="bake")
    assert made == {"cakes": ["a"], "minutes": 8, "sizes": [2.0], "gluten_free": True}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "cakes: must be given"),
        ("a --minutes", "--minutes: needs a value"),
        ("a --minutes soon", "--minutes=soon must be a whole number"),
        ("a --minutes 0", "--minutes=0 must be at least 1"),
        ("a --sizes 1 big", "--sizes=big must be a list, each a finite number, or null"),
        ("a --sizes 1 -2", "--sizes=[1.0, -2.0] must be above 0"),
        ("a --gluten-free", "--gluten-free: there is no such option; did you mean --gluten_free?"),
        ("a --gluten_free=maybe", "--gluten_free=maybe must be true or false"),
        ("a --from flower", "--from=flower must be one of flour, oats, or null; did you mean flour?"),
        ("a --config nowhere.yaml", "--config=nowhere.yaml: there is no such file"),
    ],
)
def test_refusals_are_one_line_without_the_usage(typed, told, capsys):
    with pytest.raises(SystemExit) as end:
        run_command("bake", typed.split(), lambda left: run_function(bake, left, prog="bake"))
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"bake: {told}") and printed.err.count("\n") == 1


def test_what_is_no_option_of_the_function_is_for_fit():
    typed = "--config a.yaml --pages 3 --data.corpus x y --signed --model.init=Text".split()
    assert run_function(book, typed, prog="book") == (
        3,
        True,
        ["--config", "a.yaml", "--data.corpus", "x", "y", "--model.init=Text"],
    )


def test_a_positional_that_may_be_left_out(capsys):
    main(["slurm", "train"])
    assert Path(capsys.readouterr().out.strip()).name == "train.sbatch"
    main(["slurm"])
    assert "train_with_teacher" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "settings", "names"),
    [
        ("compare-inits", ComparisonSettings, {"config": "recipe", "strategies": "", "fit_arguments": ""}),
        ("demo", DemoSettings, {"json": "json_path", "processes": ""}),
    ],
)
def test_defaults_are_those_of_the_settings(command, settings, names):
    """Which the file of a command cannot import, since its help must not wait for torch."""
    for name, parameter in signature(load_command(command)).parameters.items():
        if field := names.get(name, name):
            assert parameter.default == getattr(settings(), field)


def test_chips_are_those_of_the_estimates():
    assert get_args(ChipName) == CHOICES


@pytest.mark.parametrize("command", COMMANDS)
def test_options_have_one_spelling(command):
    from lit_cartridges.command_line.functions import function_parser

    parser = function_parser(load_command(command), prog=command)
    undescribed = [one.dest for one in parser._actions if not one.help and "cascade" not in one.dest]
    assert not undescribed
    assert not [flag for flag in parser._option_string_actions if "-" in flag.removeprefix("--").strip("-")]
