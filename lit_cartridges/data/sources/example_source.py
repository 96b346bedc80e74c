"""Where examples come from: groups of conversations, generated or recorded, or windows of the raw corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lit_cartridges.conversations.conversation import Conversation
from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.conversations.student import Student
from lit_cartridges.data.sources.example import Example
from lit_cartridges.self_study.room import READ_AGAIN_ERROR
from lit_cartridges.text import text_ids


class ConversationSource(Protocol):
    """A `Synthesizer` or a `RecordedConversations`; one that makes several groups together has ``conversations_of`` too."""

    def conversations(self, group_index: int) -> list[Conversation]:
        """The conversations of one group, decided by its index."""
        ...


class ExampleSource(Protocol):
    """Groups of examples, each decided by its index alone; one that makes several together has ``examples_of`` too."""

    counts: dict[str, float]

    def examples(self, group_index: int) -> list[Example]:
        """The examples of one group."""
        ...


class ConversationExamples:
    """Conversations as examples; each group is recorded as it is made, and read back when it was made before.

    Args:
        source: makes the conversations.
        renderer: lays them out for the student.
        recording: where they are kept; None for those that come from a recording.
        top_k: log-probabilities per answer token to keep.
        needs_top_logprobs: refuse a conversation without any.
        context_of: what the teacher read in front of a conversation, for objectives that read it again.

    Attributes:
        writes: a teacher writes those that are not recorded yet.
    """

    def __init__(
        self,
        source: ConversationSource,
        renderer: ChatRenderer,
        *,
        recording: Recording | None = None,
        top_k: int = 20,
        needs_top_logprobs: bool = False,
        context_of: Callable[[Conversation], list[int]] | None = None,
    ) -> None:
        self.source, self.renderer, self.recording = source, renderer, recording
        self.top_k, self.needs_top_logprobs, self.context_of = top_k, needs_top_logprobs, context_of
        self.writes = hasattr(source, "teacher")
        self.counts: dict[str, float] = {"conversations": 0, "generating_s": 0.0}

    def examples(self, group_index: int) -> list[Example]:
        """See `ExampleSource`."""
        return next(self.examples_of([group_index]))

    def examples_of(self, group_indices: Sequence[int]) -> Iterator[list[Example]]:
        """`examples` of groups one by one, which the source may make together."""
        for conversations in self._conversations_of(group_indices):
            yield [self.example(conversation) for conversation in conversations]

    def conversations(self, group_index: int) -> list[Conversation]:
        """The group from the recording, or newly made and recorded."""
        return next(self._conversations_of([group_index]))

    def _conversations_of(self, group_indices: Sequence[int]) -> Iterator[list[Conversation]]:
        wanted = [index for index in group_indices if self.recording is None or index not in self.recording]
        together = getattr(self.source, "conversations_of", None)
        making = iter(together(wanted) if together else map(self.source.conversations, wanted))
        for index in group_indices:
            if index in wanted:
                yield self._recorded(index, making)
            elif self.recording is not None:
                yield self.recording.read_group(index)

    def _recorded(self, group_index: int, making: Iterator[list[Conversation]]) -> list[Conversation]:
        start = perf_counter()
        made = next(making)
        if self.recording is not None:
            self.recording.append(group_index, made)
        self.counts["generating_s"] += perf_counter() - start
        self.counts["conversations"] += len(made)
        self.counts.update({f"synthesis/{k}": v for k, v in getattr(self.source, "counts", {}).items()})
        return made

    def example(self, conversation: Conversation) -> Example:
        """The student's tokens and targets: every token of every answer, end tokens included."""
        ids, spans = self.renderer.conversation_ids(conversation.messages)
        rows = np.concatenate([np.arange(span.start - 1, span.stop - 1) for span in spans])
        tops = [answer.top_logprobs for answer in conversation.answers]
        if all(top is not None for top in tops):
            dense = [top.dense(self.top_k) for top in tops if top is not None]
            top_ids, top_logprobs = (np.concatenate(side) for side in zip(*dense, strict=True))
        elif self.needs_top_logprobs:
            raise ValueError(
                f"a conversation ({conversation.metadata}) has an answer without the teacher's log-probabilities, "
                "which the objective needs; record them with top_k=20, or choose the NextToken objective"
            )
        else:
            top_ids, top_logprobs = np.empty((len(rows), 0)), np.empty((len(rows), 0))
        return Example(
            token_ids=ids[:-1].astype(np.int64),
            target_rows=rows.astype(np.int64),
            target_ids=ids[rows + 1].astype(np.int64),
            top_ids=top_ids.astype(np.int64),
            top_logprobs=top_logprobs.astype(np.float32),
            label=str(conversation.metadata.get("seed_prompt", conversation.type)),
            context_ids=tuple(self.context_of(conversation)) if self.context_of else (),
        )


def conversation_examples(
    source: ConversationSource,
    student: Student,
    material: Material,
    *,
    top_k: int,
    recording: Recording | None = None,
) -> ConversationExamples:
    """The conversations of ``source`` with what the student's objective needs of them."""
    objective = student.objective
    return ConversationExamples(
        source,
        material.renderer,
        recording=recording,
        top_k=top_k,
        needs_top_logprobs=objective.needs_top_logprobs,
        context_of=partial(teacher_context_ids, material) if objective.needs_teacher_hidden else None,
    )


def teacher_context_ids(material: Material, conversation: Conversation) -> list[int]:
    """What the teacher read in front: nothing off the corpus, the chunk's tokens, or a foreign system prompt.

    Raises:
        ValueError: it read the whole corpus there.
    """
    known, renderer = conversation.metadata, material.renderer
    if conversation.type == "off_corpus":
        return []
    if known.get("corpus_before_chunk"):
        raise ValueError(READ_AGAIN_ERROR)
    if known.get("corpus_sha256") == material.corpus_sha256 and "chunk_start_token" in known:
        start = int(known["chunk_start_token"])
        return renderer.context_ids(material.corpus_ids[start : start + int(known["chunk_num_tokens"])])
    return renderer.context_ids(text_ids(renderer.tokenizer, conversation.system_prompt))


class CorpusExamples:
    """Random windows of the raw corpus, every token a target: the paper's naive baseline (arXiv 2506.06266, §4).

    Args:
        corpus_ids: [tokens].
        window_tokens: tokens of a window, or the whole corpus where that is shorter.
        windows_per_group: windows that one index gives.
        seed: with the index it decides where they lie.
    """

    def __init__(
        self, corpus_ids: NDArray[Any], *, window_tokens: int, windows_per_group: int = 16, seed: int = 0
    ) -> None:
        self.corpus_ids = np.asarray(corpus_ids, dtype=np.int64)
        self.window_tokens = min(window_tokens, len(self.corpus_ids))
        self.windows_per_group, self.seed = windows_per_group, seed
        self.counts: dict[str, float] = {}

    def examples(self, group_index: int) -> list[Example]:
        """See `ExampleSource`."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, group_index])))
        starts = rng.integers(0, len(self.corpus_ids) - self.window_tokens + 1, self.windows_per_group)
        return [self._window(self.corpus_ids[start : start + self.window_tokens]) for start in starts]

    @staticmethod
    def _window(ids: NDArray[np.int64]) -> Example:
        targets = len(ids) - 1
        return Example(
            token_ids=ids[:-1],
            target_rows=np.arange(targets),
            target_ids=ids[1:],
            top_ids=np.empty((targets, 0), dtype=np.int64),
            top_logprobs=np.empty((targets, 0), dtype=np.float32),
            label="corpus",
        )
