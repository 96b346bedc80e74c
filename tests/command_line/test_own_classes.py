"""A module and a data module of one's own on the command line and in a recipe, in both shapes."""

from __future__ import annotations

import sys

import pytest
import torch
import yaml

from lit_cartridges.cli import main
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.module import LitCartridge
from tests.test_cli import command, options  # noqa: F401  a fixture

PACKAGE = '''
from typing import Any
from lit_cartridges import LitCartridge, SelfStudyDataModule

made = []

class MyLitCartridge(LitCartridge):
    """Mine.

    Args:
        half: of something.
    """

    def __init__(self, *, half: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.half = half
        made.append((half, self.num_tokens))

class MyData(SelfStudyDataModule):
    pass
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda: sys.modules["my_package"].made
    sys.modules.pop("my_package", None)


def test_its_settings_stay_where_they_were_and_its_config_says_which_it_is(tmp_path, options, package):  # noqa: F811
    own = ["--model", "my_package.MyLitCartridge", "--model.half=0.25", "--data=my_package.MyData"]
    main(command("fit", options, *own))
    assert package() == [(0.25, 8)]
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["class_path"] == "my_package.MyLitCartridge"
    assert (
        written["model"]["init_args"]["half"] == 0.25 and written["data"]["class_path"] == "my_package.MyData"
    )
    main(["fit", f"--config={tmp_path / 'run' / 'config.yaml'}", "--trainer.max_steps=4"])
    assert package() == [(0.25, 8)] * 2
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4


@pytest.mark.parametrize("args", [["--model=my_package.MyLitCartridge"], []])
def test_a_recipe_has_either_shape(tmp_path, options, package, args):  # noqa: F811
    """Named on the command line, the class counts before the recipe's."""
    ours = {name.partition(".")[2]: options.pop(name) for name in [*options] if name.startswith("model.")}
    model = ours if args else {"class_path": "my_package.MyLitCartridge", "init_args": ours}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": model}))
    main(command("fit", options, f"--config={tmp_path / 'recipe.yaml'}", "--model.half=0.75", *args))
    assert package() == [(0.75, 8)]


def test_our_own_names_change_nothing(tmp_path, options):  # noqa: F811
    main(command("fit", options, "--model", "LitCartridge", "--data=lit_cartridges.data.SelfStudyDataModule"))
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["num_tokens"] == 8 and "class_path" not in written["data"]
    assert LitCartridge and SelfStudyDataModule


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--model=my_package.Nothing", "--model='my_package.Nothing': there is no such class"),
        ("--model=no_package.Mine", "--model='no_package.Mine': there is no such class"),
        ("--data=my_package.MyLitCartridge", "is no SelfStudyDataModule; derive it from that"),
        ("--model.haf=1", "did you mean --model.half?"),
    ],
)
def test_a_wrong_class_or_option_is_one_line(options, package, capsys, argument, told):  # noqa: F811
    own = [] if argument.startswith("--model=") else ["--model=my_package.MyLitCartridge"]
    with pytest.raises(SystemExit) as end:
        main(command("fit", options, *own, argument))
    err = capsys.readouterr().err
    assert end.value.code == 2 and told in err and err.count("\n") == 1
