"""How commands end: one line and status 2 for what the user can mend, a traceback and status 1 for what is a fault."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from lit_cartridges.command_line.ending import causes, run_command
from lit_cartridges.corpora.chunkers import TokenChunker
from lit_cartridges.errors import CartridgesError, SettingError, is_ours
from lit_cartridges.teachers import TeacherError
from tests.commands.walk import Place


def ended(capsys, error: BaseException, *argv: str) -> tuple[object, str]:
    def fail(_: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run_command("lit-cartridges fit", argv, fail)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SettingError("must be at least 1", num_tokens=0), "--model.num_tokens=0 must be at least 1"),
        (TeacherError("the server\nis gone"), "the server is gone"),
        (CartridgesError("a\x1b[31mred\x07 name"), r"a\x1b[31mred\x07 name"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a/b"), "/a/b: no such file"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: no space left on device"),
    ],
)
def test_what_the_user_can_mend_is_one_line(capsys, error, told):
    assert ended(capsys, error, "--model.num_tokens=0") == (2, f"lit-cartridges fit: {told}\n")


def test_a_long_message_is_cut(capsys):
    status, told = ended(capsys, SettingError("must be " + "x" * 6000, a=1))
    assert (status, told.count("\n")) == (2, 1) and len(told) < 2100


@pytest.mark.parametrize(
    "error",
    [RuntimeError("of torch"), ValueError("of numpy"), KeyError("x"), OSError("no errno"), ConnectionError()],
)
def test_a_foreign_error_keeps_its_traceback(error):
    def fail(_: list[str]) -> None:
        raise error

    with pytest.raises(type(error)) as kept:
        run_command("lit-cartridges fit", [], fail)
    assert kept.value is error


def test_a_chain_of_causes_that_leads_back_into_itself_ends():
    """As where an error is raised anew while its own is handled."""
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    assert list(causes(first)) == [second]


def test_ctrl_c_is_status_130(capsys):
    assert ended(capsys, KeyboardInterrupt()) == (130, "")


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    for argv in (["--debug", "--a", "1"], ["--a", "1", "--debug"]):
        status, told = ended(capsys, SettingError("must be", a=1), *argv)
        assert (
            status == 2
            and told.startswith("Traceback")
            and told.endswith("lit-cartridges fit: --a=1 must be\n")
        )


def test_an_empty_value_is_refused(capsys):
    for argv in (["--data.corpus="], ["--data.corpus", ""], ["--data.corpus=  "]):
        with pytest.raises(SystemExit):
            run_command("lit-cartridges fit", argv, lambda _: pytest.fail("it ran"))
        assert capsys.readouterr().err == "lit-cartridges fit: --data.corpus: must not be empty\n"


def test_our_errors_are_those_that_our_code_raises():
    def caught(function):
        with pytest.raises(Exception) as error:
            function()
        return error.value

    assert is_ours(caught(lambda: TokenChunker(min_tokens=6, max_tokens=5)))
    ours = compile("def f(): raise ValueError('x')\ndef g(): int('x')\n", "ours.py", "exec")
    scope: dict = {"__package__": "lit_cartridges.somewhere"}
    exec(ours, scope)
    assert is_ours(caught(scope["f"]))
    assert not is_ours(caught(scope["g"]))  # Python raises it, in a line of ours
    scope["__package__"] = "another"
    assert not is_ours(caught(scope["f"]))


def test_a_process_of_its_own(tmp_path):
    """A bad setting, and a fault of ours."""
    place = Place.make(tmp_path)
    base = [f"{name}={value}" for name, value in place.fit.items()]
    begin = [sys.executable, "-m", "lit_cartridges.cli", "fit", *base]
    told = subprocess.run(
        [*begin, "--model.num_tokens=-3"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "lit-cartridges fit: --model.num_tokens=-3 must be at least 1\n"
    broken = "from lit_cartridges.commands import recipes; recipes.recipes_command = lambda: {}['x']"
    run = "from lit_cartridges.cli import main; main(['recipes'])"
    fault = subprocess.run(
        [sys.executable, "-c", f"{broken}; {run}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert fault.returncode == 1
    assert "Traceback" in fault.stderr and "KeyError" in fault.stderr.splitlines()[-1]
