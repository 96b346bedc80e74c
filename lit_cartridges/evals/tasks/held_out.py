"""Conversations that nobody trained on: what they measure is how far a system is from the teacher that wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_cartridges.conversations.parquet import read_conversations
from lit_cartridges.conversations.tokenizer_check import check_tokenizer
from lit_cartridges.evals.tasks.task import EvalError, EvalQuestion, EvalTask
from lit_cartridges.settings import ReadPath, checked


class HeldOutConversations(EvalTask):
    """The first question of each conversation of a recording, and the teacher's answer to it.

    ``lit-cartridges synthesize`` writes one, with another ``--data.seed`` than that of the training. What is scored are the
    tokens that the teacher wrote: their log-likelihood, and the divergence from its recorded log-probabilities. A reply
    counts as right where it has the same words, or contains them.

    Args:
        path: a .parquet file of conversations, or a folder of them.

    Raises:
        EvalError: it holds no conversations, or one without token ids or log-probabilities.
    """

    @checked
    def __init__(self, *, path: ReadPath) -> None:
        self._path = Path(path)
        self._conversations = read_conversations(self._path)
        self._questions = []
        for number, conversation in enumerate(self._conversations):
            question, answer = conversation.messages[:2]
            if answer.top_logprobs is None or not len(answer.token_ids) or not answer.content.strip():
                raise EvalError(
                    f"path={str(path)!r}: conversation {number} has no answer with token ids and the teacher's "
                    "log-probabilities; give one that `lit-cartridges synthesize` wrote"
                )
            self._questions.append(
                EvalQuestion(prompt=question.content, answer=answer.content, recorded=answer)
            )

    def questions(self) -> Sequence[EvalQuestion]:
        return self._questions

    def require_tokenizer(self, tokenizer: Any, *, vocab_size: int | None = None) -> None:
        """See `EvalTask.require_tokenizer`."""
        check_tokenizer(self._conversations, tokenizer, str(self._path), vocab_size=vocab_size)

    def describe(self) -> str:
        return f"{type(self).__name__} {self._path.name}"
