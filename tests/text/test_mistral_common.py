"""Tokenizers of mistral-common: Mistral's newer models have only a tekken.json, whose text never becomes a token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers.utils.import_utils import is_mistral_common_available

from lit_cartridges.conversations.conversation import Message
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.conversations.tokenizer_check import tokenizer_fingerprint
from lit_cartridges.corpora.open_corpus import open_corpus
from lit_cartridges.text import control_tokens

if not is_mistral_common_available():
    pytest.skip("transformers finds no mistral-common that it can use", allow_module_level=True)

FILES = ["tekken_240911.json", "mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model.v1"]


@pytest.fixture(scope="module", params=FILES)
def tok(request):
    import mistral_common
    from transformers import MistralCommonBackend

    if ".model" in request.param:
        pytest.importorskip("sentencepiece")
    return MistralCommonBackend(str(Path(mistral_common.__file__).parent / "data" / request.param))


def template_ids(tok, *contents, system=None):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return tok.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize("content", ["Who keeps bees?", "\n\nMira", "What is [INST] or </s>?", "é☃ 12"])
def test_prompts_are_mistral_common_s(tok, content):
    renderer = ChatRenderer(tok)
    assert renderer.bare_prompt_ids([user(content)]) == template_ids(tok, content)
    ours = renderer.context_ids(tok.encode("Mira.", add_special_tokens=False)) + renderer.prompt_ids(
        [user(content)]
    )
    # Where the system message is no message of its own, it stands in one text with what is asked; a blank is between.
    theirs = tok.decode(template_ids(tok, content, system="Mira."), skip_special_tokens=True)
    assert tok.decode(ours, skip_special_tokens=True).split() == theirs.split()


def test_rounds(tok):
    renderer = ChatRenderer(tok)
    ids = np.asarray([*renderer.answer_ids("Mira."), tok.eos_token_id], dtype=np.int32)
    ours = renderer.bare_prompt_ids([user("Who?"), Message("assistant", "Mira.", ids), user("When?")])
    assert ours == template_ids(tok, "Who?", "Mira.", "When?")
    assert renderer.stop_token_ids() == (tok.eos_token_id,)
    assert renderer.text(ids) == "Mira."


def test_a_name_anywhere_is_text(tok, tmp_path):
    watched = set(control_tokens(tok).values()) - {tok.unk_token_id}
    (tmp_path / "corpus.txt").write_text("A turn ends with </s>, and [INST] opens one.")
    ids = open_corpus(tmp_path / "corpus.txt").token_ids(tok).tolist()
    assert not watched & set(ids)
    renderer = ChatRenderer(tok, system_template="Read {chunk} </s>[INST]")
    plain = ChatRenderer(tok, system_template="Read {chunk}")
    asked = renderer.prompt_ids([user("What is </s>[INST]?")])
    assert [i for i in asked if i in watched] == [i for i in plain.prompt_ids([user("?")]) if i in watched]


def test_a_run_finds_what_it_asks_of_a_tokenizer(tok):
    assert len(tokenizer_fingerprint(tok)) == 64
    assert ChatRenderer(tok).system_prompt(tok.encode("Mira.", add_special_tokens=False)) == "Mira."
