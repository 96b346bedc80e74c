"""What Lightning finds wrong with a setting is one line, and so is what only a training would show it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from lit_cartridges.cli import main
from tests.test_cli import command, options  # noqa: F401  a fixture

CALLBACK = "--trainer.callbacks"
CASES = {
    "an unknown figure": (
        [CALLBACK, "EarlyStopping", f"{CALLBACK}.monitor=val_loss", "--trainer.val_check_interval=1"]
        + [f"{CALLBACK}.check_on_train_epoch_end=false"],
        "conditioned on metric `val_loss` which is not available",
    ),
    "an unknown attribute": (
        [CALLBACK, "LearningRateFinder", f"{CALLBACK}.attr_name=rate"],
        "learning rate was set to rate, but could not find this",
    ),
    "nothing to look at": (
        [CALLBACK, "EarlyStopping", f"{CALLBACK}.monitor=val/loss"],
        "set trainer.val_check_interval",
    ),
    "a refused callback": (
        [CALLBACK, "OnExceptionCheckpoint", f"{CALLBACK}.dirpath=there"],
        "trainer.callbacks: OnExceptionCheckpoint would save in the middle of an optimizer step",
    ),
    "a strategy for notebooks": (["--trainer.strategy=ddp_notebook"], "is for notebooks: "),
    "no checkpoint": (["--trainer.barebones=true"], "--trainer.barebones=True: would save nothing"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line(case, options, capsys, recwarn):  # noqa: F811
    arguments, told = CASES[case]
    with pytest.raises(SystemExit) as end:
        main(command("fit", options, *arguments))
    last = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and last.startswith("lit-cartridges fit: ") and told in last


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is there")
def test_a_package_that_a_logger_needs_is_named(options, capsys):  # noqa: F811
    with pytest.raises(SystemExit) as end:
        main(command("fit", options, "--trainer.logger", "MLFlowLogger"))
    assert end.value.code == 2 and "pip install -U 'mlflow" in capsys.readouterr().err


def test_a_bar_of_lightnings_takes_the_place_of_ours(options, capsys):  # noqa: F811
    main(command("fit", options, CALLBACK, "TQDMProgressBar", "--trainer.enable_progress_bar=true"))
    assert "Epoch 0" in "".join(capsys.readouterr())
