"""The real command on the bundled model, and a chat with what it made."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from lit_cartridges.cli import main
from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.parquet import write_conversations
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.routing import load_router
from lit_cartridges.routing.general_requests import general_requests
from tests.routing.routers import questions
from tests.serving.shelves import of_text, pocket

ASKED, OFF = questions(1), questions(20, 4)


@pytest.fixture
def run(tmp_path):
    """A run's folder with a recording, and files of questions."""
    cartridge = of_text(1)
    cartridge.save_pretrained(tmp_path / "run" / "cartridge")
    known = {"corpus_sha256": cartridge.provenance.corpus_sha256}
    ids = np.asarray([1, 2], dtype=np.int32)
    talks = [
        Conversation((Message("user", text, ids), Message("assistant", "a", ids)), "", known)
        for text in ASKED
    ]
    write_conversations(
        tmp_path / "run" / "recording" / "part-00000000.parquet",
        [*talks, replace(talks[0], type="off_corpus")],
    )
    (tmp_path / "general.txt").write_text("\n".join(text for seed in range(2, 6) for text in questions(seed)))
    (tmp_path / "off.txt").write_text("\n".join(OFF))
    return tmp_path / "run"


def command(run, *more):
    main(["router", str(run), f"--negatives={run.parent / 'general.txt'}", "--nearest=3", *more])


def test_it_makes_measures_and_says(run, capsys):
    off = run.parent / "off.txt"
    command(run, f"--off_corpus=[{off}]")
    told = capsys.readouterr().out
    router = load_router(run / "cartridge")
    rows = re.findall(
        r"\| (.+?) +\| (with|without) it +\| +([\d,]+) +\| +([\d.]+) ± [\d.]+ % +\| +([\d.]+) ±", told
    )
    assert [(name, side) for name, side, *_ in rows] == [
        ("held-out questions of the recording", "with"),
        ("held-out negatives", "without"),
        (str(off), "without"),
    ]
    assert int(rows[0][2]) + len(router.questions) == len(ASKED) and int(rows[2][2]) == len(OFF)
    assert float(rows[0][3]) > 40 and float(rows[2][3]) == 100
    assert f"threshold {router.threshold:.4f} of {len(router.negatives)} negatives at alpha=0.05" in told
    typed = iter([OFF[0], "exit"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", lambda prompt: next(typed))
        main(["chat", str(run / "cartridge"), "--max_new_tokens=8"])
        told = capsys.readouterr().out
        assert "for questions that its router takes for the corpus's" in told
        assert re.search(
            r"\(not about the corpus \(score [\d.]+, not above [\d.]+\): answered without the cart", told
        )
        typed = iter([OFF[0], "exit"])
        main(["chat", str(run / "cartridge"), "--max_new_tokens=8", "--router=off"])
        assert "router" not in (told := capsys.readouterr().out) and "not about" not in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--alpha=0.001"], "--alpha=0.001"),
        (["--questions=/no/such"], "--questions"),
        (["--num_negatives=10"], "a threshold needs at least 19 negatives, and there are 8"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_loads(run, capsys, more, told):
    with pytest.raises(SystemExit):
        command(run, *more)
    assert told in capsys.readouterr().err


def test_the_model_writes_requests_that_the_seed_decides():
    model, tokenizer = pocket()
    made = [general_requests(model, ChatRenderer(tokenizer), 5, seed=seed) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2] and len(set(made[0])) == 5
