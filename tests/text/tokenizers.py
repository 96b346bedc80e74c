"""Tiny tokenizers of every kind, trained on a few sentences, with special and other added tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
ADDED = ["</think>", "<tool_call>", "[OUT]"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2 and Mistral: what stands around a message is mostly ordinary text, and blanks.
INST = (
    "{{ bos_token }}{% set first = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' if messages[0].role == "
    "'system' else '' %}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] "
    "{{ first if loop.first else '' }}{{ m.content.strip() }} [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
# As Phi 3 and Zephyr: lines between special tokens.
LINES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content }}\n</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "inst": INST, "lines": LINES}
SENTENCES = [
    "Mira was born in Odrin.\n\nShe keeps bees, and sells honey.",
    "What closes a turn? user assistant system\n\n\nWho keeps bees? 12 < 13 > [INST] [/INST] [OUT] <<SYS>>",
    "A turn ends with <|im_end|> in ChatML. </s> </think> <tool_call> <s> <pad> <unk> im_start im_end",
] * 4


@cache
def tokenizer(kind: str, template: str = "chatml") -> Any:
    """The tokenizer of that kind, with a chat template."""
    made = KINDS[kind]()
    made.chat_template = TEMPLATES[template]
    return made


def _fast(core: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=SPECIAL[4:],
        clean_up_tokenization_spaces=False,
        **options,
    )
    made.add_tokens(ADDED)
    return made


def _byte_level() -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _fast(core)


def _gpt4_like() -> Any:
    """Words by a pattern in which punctuation takes the line breaks behind it, and white space runs as tokens."""
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    made = _fast(core)
    made.add_tokens(["\n\n\n", "    ", "honeycomb"])
    made.add_tokens([AddedToken("<|eats|>", lstrip=True, rstrip=True)], special_tokens=True)
    return made


def _unigram(prepend_scheme: str) -> Callable[[], Any]:
    def build() -> Any:
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=True)
        core.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
        core.train_from_iterator(
            SENTENCES,
            trainers.UnigramTrainer(
                vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
            ),
        )
        return _fast(core)

    return build


def _legacy_llama() -> Any:
    """BPE behind a normalizer that puts a blank in front of every part, with bytes for unknown letters."""
    letters = sorted(set("".join(SENTENCES)) - {" "})
    vocabulary = {
        token: i for i, token in enumerate([*SPECIAL, *(f"<0x{b:02X}>" for b in range(256)), "▁", *letters])
    }
    merges = [("▁", "M"), ("▁M", "i"), ("▁", "W"), ("▁", "▁"), ("<", "/"), ("</", "s"), ("</s", ">")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", left=1, right=0),
        ]
    )
    return _fast(core)


def _word_level() -> Any:
    words = dict.fromkeys(word for sentence in SENTENCES for word in sentence.split())
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _fast(core)


def _word_piece() -> Any:
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    )
    return _fast(core)


def _slow_bytes() -> Any:
    made = ByT5Tokenizer(extra_ids=0, additional_special_tokens=SPECIAL[4:])
    made.add_special_tokens({"bos_token": "<s>"})
    made.add_tokens(ADDED)
    return made


class Words(PreTrainedTokenizer):
    """A tokenizer in Python whose model knows its special tokens as words."""

    def __init__(self, **options: Any) -> None:
        self.vocabulary = {
            word: i
            for i, word in enumerate(
                dict.fromkeys([*SPECIAL, *"<|>/_", *(w for s in SENTENCES for w in s.split())])
            )
        }
        super().__init__(**options)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary | self._added_tokens_encoder

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.vocabulary.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return [*self.vocabulary][index]


def _slow_words() -> Any:
    made = Words(
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=SPECIAL[4:],
    )
    made.add_tokens(ADDED)
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": _byte_level,
    "gpt4-like": _gpt4_like,
    "unigram-always": _unigram("always"),
    "unigram-first": _unigram("first"),
    "unigram-never": _unigram("never"),
    "legacy-llama": _legacy_llama,
    "word-level": _word_level,
    "word-piece": _word_piece,
    "slow-bytes": _slow_bytes,
    "slow-words": _slow_words,
}
