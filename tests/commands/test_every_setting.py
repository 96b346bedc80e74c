"""Every option of every command with wrong values of each kind: refused by its name, in one line, before the model loads.

The commands are the real ones, in this process, over a model folder whose weights cannot be read: a value that is not
refused ends there, and must then be a right one, which `RIGHT` says. The default run takes some options and kinds, which
their names decide; ``-m slow`` takes all, and prints how each ended.
"""

from __future__ import annotations

import re
from collections import Counter
from zlib import crc32

import pytest

from lit_cartridges.commands import COMMANDS as OTHERS
from lit_cartridges.commands import TRAINER_COMMANDS
from tests.commands.walk import Place, class_options, command_line, option_names, run, some

COMMANDS = [
    name
    for name in (*TRAINER_COMMANDS, *OTHERS)
    if name not in ("recipes", "slurm", "completion", "leaderboard")
]
_LONGEST_S = 20.0  # of a refusal, on a busy machine; most take a tenth of a second

_ANY_WORDS = "a word|negative|zero|not a number|infinite|huge|a fraction|a missing file|a folder|not writable"
_ANY_TEXT = f"{_ANY_WORDS}|an empty list|a list too long|a mapping"
# Options (a pattern for the whole of one) and kinds of values that are right for them.
RIGHT = {
    # Names of folders and texts of any kind.
    r"--(trainer\.default_root_dir|data\.source\.recording|checkpoint\.folder|folder)": _ANY_TEXT.replace(
        "|not writable", ""
    ),
    r"compose --output": _ANY_TEXT.replace("|not writable", ""),
    r"--trainer\.model_registry|--checkpoint\.monitor": _ANY_TEXT,
    # Of a class below an option, where a list is no text.
    r"--(model\.init\.(map|reduce)_prompt|data\.source\.teacher\.(model|api_key_env)|task\.choices_field)": _ANY_WORDS,
    r"--trainer\.callbacks\.name": _ANY_WORDS,
    r"(evaluate|perplexity|passkey) --out|(demo|estimate) --json": "a missing file",
    r"report --title": _ANY_TEXT,
    r"--data\.(source\.off_)?corpus|evaluate --corpus|(estimate|report) --recording": "a folder",
    r"--data\.(validation|source\.path)|--task\.path of HeldOutConversations": "a folder",  # it holds a recording
    r"--(model\.)?(token|revision|api_key|served_name)": _ANY_TEXT,
    r"serve --(port|host)": "zero",  # a free port, and every address of this machine
    r"serve --(drain_s|max_cartridge_gb|gpu_memory_utilization|start_timeout_s)": "a fraction",
    r"reproduce --fit": f"{_ANY_WORDS}|an empty list|a mapping",  # which fit looks at, and nothing is trained here
    r"reproduce --num_tokens": "an empty list",
    # Lists that may be empty.
    r"--(trainer\.(logger|callbacks|plugins)|cartridges|allow_origins|data\.source\.teacher\.options)": "an empty list",
    r"serve --(corpora|vllm_options)|evaluate --off_corpus": "an empty list",
    r"evaluate --abstentions": f"{_ANY_WORDS}|a mapping",
    # Numbers that may be 0, shares, or both.
    r"--seed_everything|--(model|data|task)\.(question_)?seed|--task\.index|(demo|evaluate|reproduce|router) --seed": "zero",
    r"--trainer\.callbacks\.seed": "zero",
    r"(router --|--trainer\.callbacks\.)(alpha|depth)": "a fraction",
    r"router --questions": "a folder",  # it holds a recording
    r"router --(on|off)_corpus": "an empty list",
    r"--trainer\.(fast_dev_run|min_epochs|min_steps|overfit_batches|num_sanity_val_steps|log_every_n_steps)": "zero",
    r"--trainer\.reload_dataloaders_every_n_epochs|--model\.(num_frozen_tokens|warmup_steps)": "zero",
    r"--(cascade|model\.init|data\.source\.teacher\.cascade|trainer\.callbacks\.cascade)\.sink_tokens": "zero",
    r"--data\.source\.teacher\.max_retries|--data\.source\.off_corpus_share": "zero",
    r"--trainer\.(limit_(val|test|predict)_batches|gradient_clip_val)|--model\.final_lr_share": "zero|a fraction",
    r"--(data\.source\.(question|answer)_)?temperature|--data\.source\.teacher\.(backoff|server_down)_s": "zero|a fraction",
    r"--temperature": "zero|a fraction",
    r"report --score": "zero",
    r"--(cascade|model\.init)\.ema_factor": "a fraction",
    r"--model\.(learning_rate|init\.(std|ridge))|--data\.source\.(min_mass|teacher\.timeout_s)": "a fraction",
    r"--data\.source\.teacher\.(gpu_memory_utilization|start_timeout_s)": "a fraction",
    r"estimate --teacher_tokens_per_s|demo --share": "a fraction",
    # One value is a list of one.
    r"compare-inits --compressions": "a fraction|a list too long",
    r"passkey --depths": "zero|a fraction",
    r"perplexity --corpora|--task\.(haystack|lines)": "a folder",
}


def is_right(command: str, flag: str, kind: str, beside: dict[str, str]) -> bool:
    """``beside``: the classes that are chosen, among other options."""
    texts = (
        flag,
        f"{command} {flag}",
        *(f"{flag} of {value.rpartition('.')[2]}" for value in beside.values()),
    )
    return any(
        re.fullmatch(pattern, text) and kind in kinds.split("|")
        for pattern, kinds in RIGHT.items()
        for text in texts
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return Place.make(tmp_path_factory.mktemp("settings"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Some of these values are names of folders, which are then made."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_values_are_set_beside_is_right(command, place):
    base = command_line(command, place, "--none", "")[:-1]
    assert run(base).kind(command, "--none") == "accepted"


def walk(command: str, place: Place, *, kinds: int, of_options: int) -> Counter[str]:
    """Tries ``kinds`` kinds for one option of ``of_options``; returns how often each ending came."""
    ended: Counter[str] = Counter()
    wrong = []
    options = [(flag, {}) for flag in option_names(command)] + list(class_options(command, place))
    for flag, beside in options:
        if crc32(f"{command} {flag} {len(beside)}".encode()) % of_options:
            continue
        for kind, value in some(place.wrong_values(), flag, kinds).items():
            ending = run(command_line(command, place, flag, value, beside))
            place.tidy()
            found = ending.kind(command, flag)
            ended[found] += 1
            expected = "accepted" if is_right(command, flag, kind, beside) else "refused"
            if found != expected or ending.seconds > _LONGEST_S:
                wrong.append(
                    f"{flag}={value} ({kind}): {found} in {ending.seconds:.1f} s: {ending.told[-300:]}"
                )
    assert not wrong, "\n".join(wrong)
    return ended


# One option in so many, for the default run: those of fit are many, and the other trainer's commands share them.
_SHARE = {"fit": 3, "validate": 30, "test": 30, "predict": 30}


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_values_are_refused_by_name_before_the_model_loads(command, place):
    assert walk(command, place, kinds=2, of_options=_SHARE.get(command, 1))["refused"] > 0


@pytest.mark.thorough
@pytest.mark.parametrize("command", COMMANDS)
def test_all_wrong_values_are_refused_by_name_before_the_model_loads(command, place, capsys):
    # Three have the options of fit, and share its parser.
    ended = walk(
        command, place, kinds=100, of_options=10 if command in ("validate", "test", "predict") else 1
    )
    with capsys.disabled():
        print(f"\n{command}: {sum(ended.values())} values tried: {dict(ended)}")
