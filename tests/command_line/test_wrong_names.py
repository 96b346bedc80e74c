"""A wrong name of a class or an option comes with the nearest, and with those that there are, in one line without the usage."""

from __future__ import annotations

import pytest

from lit_cartridges.cli import main
from lit_cartridges.init import INITS

_FIT = ["fit", "--config=pocket.yaml"]


def refused(typed, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        main(typed)
    printed = capsys.readouterr()
    assert (end.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    return printed.err.removeprefix(f"lit-cartridges {typed[0]}: ")


@pytest.mark.parametrize(
    ("command", "typed", "base", "mend"),
    [
        (
            _FIT,
            "--model.init=FirstToken",
            "InitStrategy",
            "did you mean FirstTokens? there are AttentionMatching,",
        ),
        (_FIT, "--model.init=my.own.Init", "InitStrategy", "there are AttentionMatching,"),
        (
            _FIT,
            "--model.objective=TopK",
            "Objective",
            "did you mean TopKDistillation? there are ",
        ),
        (_FIT, "--data.source.teacher=Local", "Teacher", "did you mean LocalTeacher? there are "),
        (_FIT, "--trainer.callbacks=EarlyStoping", "Callback", "did you mean EarlyStopping? there are "),
        (["evaluate"], "--task=Question", "EvalTask", "did you mean QuestionFile? there are "),
        (["passkey", "--model=m"], "--language=Engl", "PasskeyLanguage", "did you mean EnglishPasskey?"),
    ],
)
def test_of_a_class(command, typed, base, mend, capsys):
    assert refused([*command, typed], capsys).startswith(f"{typed}: there is no such {base}; {mend}")


@pytest.mark.parametrize(
    ("command", "flag", "told"),
    [
        (_FIT, "--num_tokens", "there is no such option; did you mean --model.num_tokens?"),
        (_FIT, "--model.num_token", "there is no such option; did you mean --model.num_tokens?"),
        (_FIT, "--model.rank", "there is no such option; there are betas, "),
        ([*_FIT, "--model.init=Text"], "--model.init.pat", "Text has no such option; did you mean path?"),
        (["evaluate"], "--max-new-tokens", "there is no such option; did you mean --max_new_tokens?"),
        (["compose", "a"], "--outpu", "there is no such option; did you mean --output?"),
    ],
)
def test_of_an_option(command, flag, told, capsys):
    assert refused([*command, f"{flag}=3"], capsys).startswith(f"{flag}: {told}")


def test_all_init_strategies_are_listed(capsys):
    told = refused([*_FIT, "--model.init", "FirstToken"], capsys)
    assert all(name in told for name in INITS)
