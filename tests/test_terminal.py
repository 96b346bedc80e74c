"""Nothing that a model, a file or a corpus says drives the terminal."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import lit_cartridges.terminal
from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cli import main
from lit_cartridges.commands.reply_streamer import ReplyStreamer
from lit_cartridges.evals.table import aligned
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.terminal import printable, printable_line
from lit_cartridges.text import text_ids
from tests.text.tokenizers import tokenizer
from tests.tiny_models import VOCAB, tiny_model
from tests.tiny_run import SPECIALS, TEMPLATE

HOSTILE = "a\x1b]0;title\x07b\x1b[2J\x9b31m\x90q\x9c c\rd\x08\x7f \u202eabc\u2066 \u2028 \ufff9"
DRIVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")


def test_every_character_that_drives_a_terminal_is_shown_as_its_code():
    assert not DRIVING.search(printable(HOSTILE))
    assert printable("\x1b[2J\x9b\u202e\ud800") == "\\x1b[2J\\x9b\\u202e\\ud800"
    for number in range(0x110000):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            assert printable(character).isascii()


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\tand tabs",
        "Zoë 你好 नमस्ते שלום\u200f",
        "👩\u200d🚀 🏴\U000e0067\U000e007f",
        "\xa0\u3000",
        "",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


def test_line_ends_of_windows_are_line_ends():
    assert printable("a\r\nb\rc") == "a\nb\\x0dc"
    assert printable_line("a\r\n b\tc\x1b") == "a b c\\x1b"


def test_a_reply_that_comes_in_pieces(capsys):
    tok = tokenizer("slow-bytes")
    text = HOSTILE + " é\u202e☃\r\n\r\nend \x1b"
    streamer = ReplyStreamer(tok)
    streamer.put(torch.tensor(tok.convert_tokens_to_ids(["a"])))  # the prompt, which is not shown
    for token_id in text_ids(tok, text):  # one byte at a time, so that sequences and characters come in two
        streamer.put(torch.tensor([token_id]))
    streamer.end()
    assert capsys.readouterr().out == printable(text) + "\n"


def test_line_ends_and_sequences_cut_in_two(capsys):
    streamer = ReplyStreamer(tokenizer("slow-bytes"))
    for piece in ("a\r", "\nb\r", "c\x1b", "[2J\r"):
        streamer.on_finalized_text(piece)
    streamer.on_finalized_text("", stream_end=True)
    assert capsys.readouterr().out == "a\nb\\x0dc\\x1b[2J\\x0d\n"


def test_chat_with_a_model_that_says_escape_sequences(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "mo\x1b]0;x\x07del"
    words = [*SPECIALS, *(f"{HOSTILE}{i}".replace(" ", "_") for i in range(VOCAB - len(SPECIALS)))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<bos>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    model = tiny_model("llama")
    model.save_pretrained(folder)
    keys, values = prefill(model, [1, 2, 3, 4])
    known = Provenance(base_model=str(folder), fingerprint=Fingerprint.of_config(model.config))
    Cartridge(keys, values, provenance=known).save_pretrained(tmp_path / "cartridge")
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n\n"))
    main(["chat", str(tmp_path / "cartridge"), "--max_new_tokens", "4", "--device", "cpu"])
    said = capsys.readouterr().out
    assert "\\x1b]0;title\\x07" in said and "mo\\x1b]0;x\\x07del" in said
    assert not DRIVING.search(said)


def test_errors_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["chat", "no\x1b[2Jsuch\u202efolder"])
    error = capsys.readouterr().err
    assert "such" in error and not DRIVING.search(error)


def test_names_in_tables_and_bars():
    table = aligned([["system", "x"], [f"{HOSTILE}\nb", "1"], ["plain", "2"]])
    assert not DRIVING.search(table) and len(table.splitlines()) == 4
    shown = io.StringIO()
    with SteadyBar(total=2, desc=f"\x1b]0;{HOSTILE}", file=shown) as bar:
        bar.set_postfix({"\x1b[2Jname": "\x9bvalue"})
        bar.update()
    # tqdm's own carriage returns and cursor movements are all that is left.
    assert "value" in shown.getvalue()
    assert not DRIVING.search(shown.getvalue().replace("\r", "").replace("\x1b[A", ""))


def test_logs_warnings_and_tracebacks_of_the_command():
    code = (
        f"import runpy, logging, warnings; runpy.run_path({lit_cartridges.terminal.__file__!r})['guard_terminal']()\n"
        "logging.basicConfig(format='%(message)s'); text = chr(27) + '[2J' + chr(0x202e)\n"
        "logging.getLogger('x').warning('logged %s', text)\n"
        "warnings.warn('warned ' + text)\n"
        "raise ValueError('raised ' + text)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 1
    for said in ("logged", "warned", "ValueError: raised"):
        assert f"{said} \\x1b[2J\\u202e" in done.stderr
    assert not DRIVING.search(done.stderr)
