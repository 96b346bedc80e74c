"""How long conversations are: as in a recording, or assumed where there is none yet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.parquet import conversation_files, read_conversations
from lit_cartridges.conversations.tokenizer_check import RecordingError

# Of a long text, as docs/scaling.md assumes too; the limits of a recipe may be lower.
_QUESTION_TOKENS, _ANSWER_TOKENS = 100, 380
_MOST_FILES, _ROWS = 256, 500
# Of a Parquet file with one conversation: schema, statistics and checksums; each further one takes far less.
FILE_BYTES = 12_000


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Means of a round of a conversation, in tokens.

    Attributes:
        question, answer: as generated, an answer with its end token.
        longest_question, longest_answer: of a group, which decodes until its longest has ended.
        talks: tokens of questions and answers of each conversation that was looked at; empty where none was.
        talk_bytes: of a conversation in its recording, beside its file's `FILE_BYTES`; None where there is none.
        source: where this is from, for people.
    """

    question: float
    answer: float
    longest_question: float
    longest_answer: float
    talks: tuple[int, ...] = ()
    talk_bytes: float | None = None
    source: str = ""

    @classmethod
    def assumed(cls, *, question_max_tokens: int, answer_max_tokens: int) -> Lengths:
        """Where nobody has asked yet: each group has a question and an answer that are cut at their limits."""
        question, answer = min(_QUESTION_TOKENS, question_max_tokens), min(_ANSWER_TOKENS, answer_max_tokens)
        return cls(
            question=question,
            answer=answer,
            longest_question=question_max_tokens,
            longest_answer=answer_max_tokens,
            source=f"questions of {question} tokens and answers of {answer}: assumed, in each group one of each as long as its "
            "limit; --recording takes them from conversations that were made before",
        )

    @classmethod
    def of_windows(cls, tokens: int) -> Lengths:
        """Of the corpus itself: every token is one to learn, and nobody asks."""
        window = f"windows of {tokens} tokens of the corpus"
        return cls(question=0, answer=tokens, longest_question=0, longest_answer=tokens, source=window)

    @classmethod
    def of_recording(cls, path: Path, tokenizer: Any) -> Lengths:
        """As in the first files of a recording (a Parquet file, or a run's folder of them).

        Raises:
            RecordingError: there is none, it cannot be read, or it is of another tokenizer.
        """
        files = conversation_files(path)[:_MOST_FILES]
        groups: dict[object, list[Conversation]] = defaultdict(list)
        for file in files:
            for conversation in read_conversations(file, tokenizer=tokenizer):
                groups[conversation.metadata.get("group", file)].append(conversation)
        talks = [talk for group in groups.values() for talk in group]
        if not talks:
            raise RecordingError(f"path={str(path)!r} holds no conversation; give another recording")
        sides = [_lengths(talks, side) for side in (0, 1)]
        longest = [[max(_lengths(group, side)) for group in groups.values() if group] for side in (0, 1)]
        return cls(
            question=float(np.mean(sides[0])),
            answer=float(np.mean(sides[1])),
            longest_question=float(np.mean(longest[0])),
            longest_answer=float(np.mean(longest[1])),
            talks=tuple(sum(len(m.token_ids) for m in talk.messages) for talk in talks),
            talk_bytes=sum(file.stat().st_size - FILE_BYTES for file in files) / len(talks),
            source=f"lengths of {len(talks):,} conversations in {path}",
        )

    def conversations_per_row(self, *, template_tokens: int, rounds: int, tokens_per_batch: int) -> float:
        """Mean of a packed row, as `ExampleStream` packs: the next one that does not fit begins another."""
        if not self.talks:
            mean = rounds * (template_tokens + self.question + self.answer)
            return max(1.0, tokens_per_batch // mean)
        sizes = np.minimum(np.asarray(self.talks) + rounds * template_tokens - 1, tokens_per_batch)
        rng, rows, filled, count = np.random.default_rng(0), 0, 0, 0
        while rows < _ROWS:
            for size in rng.permutation(sizes):
                if filled + size > tokens_per_batch:
                    rows, filled = rows + 1, 0
                filled, count = filled + int(size), count + 1
        return count / (rows + filled / tokens_per_batch)


def _lengths(talks: Sequence[Conversation], side: int) -> list[int]:
    return [len(message.token_ids) for talk in talks for message in talk.messages[side::2]]
