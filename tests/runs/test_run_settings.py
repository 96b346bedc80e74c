"""What a run is made with, as plain values: objects by class and options, files by their content."""

from __future__ import annotations

import inspect
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.init import INITS, FromCartridge, RandomVectors
from lit_cartridges.losses import Objective
from lit_cartridges.models import load_model
from lit_cartridges.runs.run_settings import files_identity, flat, model_identity, plain
from lit_cartridges.teachers import VLLM, LocalTeacher, OpenAITeacher
from tests.tiny_run import save_model


class Weighted(Objective):
    """One of a user's own."""

    def __init__(self, weights: torch.Tensor, inner: Objective | None = None, other: int = 0) -> None:
        self.weights, self._inner = weights, inner

    @property
    def other(self):
        raise RuntimeError("not now")

    def token_losses(self, log_probs, targets, teacher_head):
        raise NotImplementedError


class Narrower(Weighted):
    def __init__(self, *, width: int = 3, **options) -> None:
        super().__init__(**options)
        self.width = width


def test_an_object_is_its_class_and_under_it_its_options():
    told = flat({"init": FromCartridge(path="x", grow=RandomVectors(std=0.5))}, "model")
    assert told == {
        "model.init": "FromCartridge",
        "model.init.path": "x",
        "model.init.grow": "RandomVectors",
        "model.init.grow.scale": "unit",
        "model.init.grow.std": 0.5,
    }


def test_a_class_in_a_recipe_is_told_as_the_object_that_is_made_of_it():
    typed = {"class_path": "lit_cartridges.init.RandomVectors", "init_args": {"scale": "unit", "std": 0.5}}
    assert flat({"init": typed}) == flat({"init": RandomVectors(std=0.5)})


@pytest.mark.parametrize(
    "made",
    [
        *(INITS[name]() for name in sorted(INITS) if name not in ("FromCartridge", "Text")),
        LocalTeacher(cascade=CascadeOptions(total_tokens=64)),
        OpenAITeacher(base_urls="http://a", model="m"),
        VLLM(),
    ],
    ids=lambda made: type(made).__name__,
)
def test_every_option_of_ours_is_told(made):
    told = flat({"it": made})
    options = [
        name
        for name in inspect.signature(type(made).__init__).parameters
        if name not in ("self", "args", "kwargs")
    ]
    assert all(f"it.{name}" in told for name in options)


def test_classes_of_others_keep_their_module_and_what_they_inherit():
    told = flat({"it": Narrower(width=2, weights=torch.ones(4))})
    assert told["it"] == f"{__name__}.Narrower" and told["it.width"] == 2
    assert told["it.weights"] == plain(torch.ones(4)) != plain(torch.zeros(4))


def test_an_object_inside_itself_comes_to_an_end():
    ring = Weighted(torch.ones(1))
    ring._inner = ring
    assert "it.inner.inner" in flat({"it": ring})


def test_plain_values_are_what_a_checkpoint_may_hold(tmp_path):
    values = [
        True,
        1,
        0.5,
        "a",
        None,
        (1, 2),
        {"b": Path("x")},
        {3},
        torch.float16,
        timedelta(minutes=5),
        torch.nn.Linear(1, 1),
    ]
    torch.save(plain(values), tmp_path / "it")
    held = torch.load(tmp_path / "it", weights_only=True)
    assert held[:8] == [True, 1, 0.5, "a", None, [1, 2], {"b": "x"}, [3]]
    assert held[8:10] == ["torch.float16", "0:05:00"] and held[10].endswith(".Linear")


def test_a_model_is_known_by_its_files_wherever_they_lie(tmp_path):
    name = save_model(tmp_path / "model")
    moved = str(shutil.copytree(name, tmp_path / "moved"))
    assert model_identity(moved)["is"] == model_identity(name)["is"]
    (tmp_path / "moved" / "README.md").write_text("a model")
    assert model_identity(moved)["is"] == model_identity(name)["is"]
    other = load_model(moved)
    other.get_input_embeddings().weight[0, 0] += 1
    other.save_pretrained(moved)
    assert model_identity(moved)["is"] != model_identity(name)["is"]
    assert model_identity("org/model") == {"is": "org/model", "as": "org/model"}


def test_a_template_of_its_own_makes_another_model(tmp_path):
    name = save_model(tmp_path / "model")
    before = model_identity(name)
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages }}")
    assert model_identity(name)["is"] != before["is"]


def test_files_are_known_by_content_and_several_by_their_order_too(tmp_path):
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)

    def known(*names):
        return files_identity([tmp_path / name for name in names], "x")["is"]

    assert known("a") == known("c") != known("b")
    assert known("a", "b") != known("b", "c")
    before = known("a")
    (tmp_path / "a").write_text("3")
    assert known("a") != before
