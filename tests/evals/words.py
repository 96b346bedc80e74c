"""A tokenizer of as many words as the tiny models know, and a task in its words."""

from __future__ import annotations

import random
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.evals.tasks.task import EvalQuestion, EvalTask
from tests.tiny_models import VOCAB

_FIXED = ["<pad>", "<s>", "</s>", "User", "Assistant", ":", "<unk>"]
WORDS = [f"w{i}" for i in range(VOCAB - len(_FIXED))]


@cache
def word_renderer() -> ChatRenderer:
    """No chat template: "<s>CORPUS User : QUESTION Assistant :"; ids as the tiny models have them."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*_FIXED, *WORDS])}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    return ChatRenderer(tokenizer)


def sentence(num_words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


class WordTask(EvalTask):
    """Questions of unequal lengths, with answers of unequal lengths."""

    def __init__(self, *, num_questions: int = 7) -> None:
        self.num_questions = num_questions

    def questions(self):
        return [
            EvalQuestion(prompt=sentence(1 + (5 * i) % 9, i), answer=sentence(1 + (2 * i) % 4, 100 + i))
            for i in range(self.num_questions)
        ]


class Answered(EvalTask):
    """Given questions and answers."""

    def __init__(self, pairs):
        self.pairs = pairs

    def questions(self):
        return [EvalQuestion(prompt=prompt, answer=answer) for prompt, answer in self.pairs]
