"""The pocket language's tokenizer: one word, one token, with a chat template."""

from __future__ import annotations

from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_cartridges.pocket import language
from lit_cartridges.pocket.language import SEED_PROMPTS
from lit_cartridges.pocket.vocabulary import NAMES, VALUES

SPECIAL_TOKENS = ["<unk>", "<pad>", "<bos>", "<end>", "<system>", "<user>", "<assistant>"]
"""`<end>` closes an answer (the end-of-sequence token); the last three open a message of that role."""

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    " <{{ message['role'] }}> {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %} <end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
)


@cache
def words() -> tuple[str, ...]:
    """Every token of the language; a token's place is its id."""
    texts = [*language.FILLERS, *language.OPENINGS, *language.LISTS, *language.SUMMARIES, ": , . and"]
    texts += [*language.CREATIONS, *language.CREATIONS.values()]
    for table in (language.STATEMENTS, language.QUESTIONS, language.USE_CASES, SEED_PROMPTS):
        texts += [text for group in table.values() for text in group]
    plain = {word for text in texts for word in text.split() if not word.startswith("{")} | set(VALUES)
    names = [name for group in NAMES.values() for name in group]
    values = [value for group in VALUES.values() for value in group]
    return (*SPECIAL_TOKENS, *sorted(plain - set(names) - set(values)), *names, *values)


@cache
def ids() -> dict[str, int]:
    """Token -> id."""
    return {word: index for index, word in enumerate(words())}


def build_tokenizer(model_max_length: int = 4096) -> PreTrainedTokenizerFast:
    """A transformers tokenizer that splits on blanks and punctuation, adds nothing, and joins by blanks."""
    core = Tokenizer(models.WordLevel(ids(), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<end>",
        extra_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
        padding_side="left",
    )


def unknown_words(text: str) -> list[str]:
    """The words of a text that the language does not have, each once, in the order they appear."""
    splitter = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    known = ids()
    return list(dict.fromkeys(word for word, _ in splitter.pre_tokenize_str(text) if word not in known))
