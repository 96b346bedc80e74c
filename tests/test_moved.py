"""Names of modules in 0.1 lead to the same modules, in imports and in the class paths of saved configs."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from lit_cartridges.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_module_itself(old):
    new = importlib.import_module(f"lit_cartridges.{MOVED[old]}")
    assert importlib.import_module(f"lit_cartridges.{old}") is new
    assert new.__name__ == f"lit_cartridges.{MOVED[old]}" == new.__spec__.name


def test_what_users_import_by_old_names_is_there():
    code = """
from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.commands.trainer_cli import CartridgeCLI
from lit_cartridges.evals.cascade_system import CascadeSystem, streamed
from lit_cartridges.evals.passkey import EnglishPasskey, PasskeyLanguage, passkey_cell
from lit_cartridges.evals.system import ContextTooLong, System, icl, no_context, of_cartridge, truncated_icl
from lit_cartridges.evals.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.generation import generate
from lit_cartridges.losses import LanguageHead
from lit_cartridges.models import load_config, load_model, load_tokenizer
from lit_cartridges.module import LitCartridge
from lit_cartridges.packed_forward import student_hidden
from lit_cartridges.prefill import prefill
from lit_cartridges.self_study.corpus import CorpusError, open_corpus
from lit_cartridges.self_study.renderer import ChatRenderer, user
from lit_cartridges.teachers.conversation import Conversation, Message
from lit_cartridges.teachers.conversation_file import read_conversations, write_conversations
from lit_cartridges.teachers.tokenizer_check import tokenizer_fingerprint
from lit_cartridges.teachers.top_logprobs import TopLogprobs
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lit_cartridges.no_such_module")
