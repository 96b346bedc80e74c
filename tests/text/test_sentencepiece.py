"""Text stays text to SentencePiece's own library, whose models hold symbols that transformers does not know of."""

from __future__ import annotations

import pytest

from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.text import control_tokens
from tests.text.tokenizers import ADDED, SENTENCES, TEMPLATES

sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")


@pytest.fixture(scope="module", params=[("unigram", 140), ("bpe", 400)], ids=["unigram", "bpe"])
def model_file(request, tmp_path_factory):
    kind, vocab_size = request.param
    prefix = tmp_path_factory.mktemp("sentencepiece") / kind
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(prefix),
        model_type=kind,
        vocab_size=vocab_size,
        byte_fallback=kind == "bpe",
        user_defined_symbols=["<tool_call>", "<|im_start|>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return f"{prefix}.model"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("legacy", [True, False])
def test_names_are_text_and_the_rest_is_the_template_s(model_file, legacy, template):
    from transformers import BertGenerationTokenizer

    tok = BertGenerationTokenizer(vocab_file=model_file, legacy=legacy, extra_special_tokens=["<|im_end|>"])
    tok.add_tokens(ADDED)
    tok.chat_template = TEMPLATES[template]
    assert not tok.is_fast
    renderer, control = ChatRenderer(tok), control_tokens(tok)
    assert "<|im_start|>" in control
    watched = set(control.values()) - {tok.unk_token_id}

    def found(content):
        return [i for i in renderer.bare_prompt_ids([user(content)]) if i in watched]

    for name in control:
        assert found(f"What is {name}? {name}{name}") == found("Who?"), name
    for content in ("Who keeps bees?", " Mira", "\n\nx ", "W  W", "1 < 2"):
        chat = [{"role": "user", "content": content}]
        ids = tok.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert renderer.bare_prompt_ids([user(content)]) == ids
