"""`checked`: what a signature does not allow is refused by the argument's name, for Python users and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from lit_cartridges.errors import SettingError
from lit_cartridges.init import FirstTokens
from lit_cartridges.module import LitCartridge
from lit_cartridges.settings import (
    Decay,
    DeviceName,
    PositiveFloat,
    PositiveInt,
    Range,
    Seed,
    Share,
    check_fields,
    checked,
)


@checked
def trained(
    *,
    name: str = "",
    num_tokens: PositiveInt = 8,
    rate: PositiveFloat = 1.0,
    share: Share | None = None,
    betas: tuple[Decay, Decay] = (0.9, 0.99),
    steps: list[PositiveInt] | None = None,
    mode: Literal["min", "max"] = "min",
    fresh: bool = False,
    seed: Seed = 0,
    place: Path | None = None,
    device: DeviceName = "auto",
    init: FirstTokens | None = None,
    prompts: dict[str, list[str]] | None = None,
) -> str:
    return "called"


@pytest.mark.parametrize(
    "right",
    [
        {},
        {"name": ""},  # the default, whatever it is
        {"num_tokens": 1, "rate": 2, "share": 1, "betas": [0.0, 0.5], "steps": [1, 2], "mode": "max"},
        {"share": None, "seed": 2**32 - 1, "place": "a/b", "device": "cpu", "init": FirstTokens()},
        {"prompts": {"a": ["b"]}},
    ],
)
def test_what_the_signature_allows_is_passed_on(right):
    assert trained(**right) == "called"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("name", "  ", "name='  ' must not be empty"),
        ("name", 3, "name=3 must be text"),
        ("num_tokens", 0, "num_tokens=0 must be at least 1"),
        ("num_tokens", 2**40, "num_tokens=1099511627776 must be at most 2147483647"),
        ("num_tokens", 1.0, "num_tokens=1.0 must be a whole number"),
        ("num_tokens", True, "num_tokens=True must be a whole number"),
        ("num_tokens", "8", "num_tokens='8' must be a whole number"),
        ("num_tokens", None, "num_tokens=None must be a whole number"),
        ("rate", float("nan"), "rate=nan must be a finite number"),
        ("rate", float("inf"), "rate=inf must be a finite number"),
        ("rate", 0, "rate=0 must be above 0"),
        ("share", 1.5, "share=1.5 must be at most 1"),
        ("share", "half", "share='half' must be a finite number, or null"),
        ("betas", (0.9, 1.0), r"betas=\(0.9, 1.0\) must be below 1"),
        ("betas", (0.9,), r"betas=\(0.9,\) must be 2 values: a finite number, a finite number"),
        ("betas", 0.9, "betas=0.9 must be 2 values"),
        ("steps", [3, 0], r"steps=\[3, 0\] must be at least 1"),
        ("steps", "3", "steps='3' must be a list, each a whole number, or null"),
        ("mode", "most", "mode='most' must be one of min, max"),
        ("fresh", 1, "fresh=1 must be true or false"),
        ("seed", -1, "seed=-1 must be at least 0"),
        ("device", "gpu", "device='gpu' must be auto, cpu, cuda"),
        ("device", "cpu:7", "device='cpu:7'"),
        ("init", "FirstTokens", "init='FirstTokens' must be a FirstTokens, or null"),
        ("prompts", {"a": "b"}, "prompts=.* must be a mapping to a list, each text"),
        ("prompts", {"a": [" "]}, "prompts=.* must not be empty"),
    ],
)
def test_what_it_does_not_allow_is_refused_by_name(name, value, told):
    with pytest.raises(SettingError, match=told):
        trained(**{name: value})


def test_an_argument_that_is_missing_or_unknown_is_left_to_python():
    with pytest.raises(TypeError):
        trained(3)
    with pytest.raises(TypeError):
        LitCartridge(num_tokens=3)


def test_fields_of_a_dataclass():
    @dataclass
    class Sizes:
        width: Annotated[int, Range(least=2)] = 2

        def __post_init__(self) -> None:
            check_fields(self)

    globals()["Sizes"] = Sizes
    Sizes(width=3)
    with pytest.raises(SettingError, match="width=1 must be at least 2"):
        Sizes(width=1)
