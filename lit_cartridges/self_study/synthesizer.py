"""Self-study: the teacher asks itself about a chunk and answers (section 4.1 of arXiv 2506.06266)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from lit_cartridges.conversations.conversation import Conversation, Message, Scalar
from lit_cartridges.conversations.recording import tokenizer_fingerprint
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.corpora.chunkers import Chunk, TokenChunker
from lit_cartridges.self_study.dialogue import Dialogue
from lit_cartridges.self_study.seed_prompts import resolve_seed_prompts
from lit_cartridges.settings import Count, NonNegativeInt, PositiveShare, Range, Share, checked
from lit_cartridges.teachers.teacher import Completion, Request, Sampling, Talk, Teacher, TeacherError

COUNTS = ("made", "empty_questions", "empty_answers", "cut_questions", "cut_answers")
# Keys of the random streams; a group's draws must not repeat a conversation's of the same number.
_GROUP_STREAM, _CONVERSATION_STREAM = 0, 1
_GROUPS_BEFORE_GIVING_UP = 3


@dataclass(frozen=True)
class _Group:
    """Conversations about one chunk."""

    index: int
    chunk: Chunk
    off_corpus: bool
    dialogues: list[Dialogue]

    def __str__(self) -> str:
        where = "other text than the corpus" if self.off_corpus else "the corpus"
        return (
            f"group {self.index}, about the {self.chunk.num_tokens:,} tokens of {where} from token "
            f"{self.chunk.start_token:,} on"
        )


class Synthesizer:
    """Makes conversations, group by group; a group shares one chunk, so the teacher prefills it once.

    (seed, group_index) decides the chunk; (seed, index), with index = group_index * conversations_per_group + j,
    decides the seed prompt and the sampling. So any group can be made at any time, by any rank, and comes out the
    same.

    An off-corpus group asks about a chunk of other text and answers without any context: it teaches a cartridge to
    leave alone what is not in its corpus.
    """

    @checked
    def __init__(
        self,
        *,
        corpus_ids: NDArray[np.int32],
        chunker: TokenChunker,
        renderer: ChatRenderer,
        teacher: Teacher,
        seed_prompts: str | Mapping[str, Sequence[str]] = "paper",
        seed: Annotated[int, Range(least=0)] = 0,
        conversations_per_group: Count = 16,
        num_rounds: Count = 1,
        question: Sampling | None = None,
        answer: Sampling | None = None,
        top_k: NonNegativeInt = 20,
        min_mass: PositiveShare = 0.99,
        off_corpus_ids: NDArray[np.int32] | None = None,
        off_corpus_share: Share = 0.0,
        corpus_sha256: str = "",
        corpus_before_chunk: bool = False,
    ) -> None:
        """
        Args:
            corpus_ids: int32 [tokens] of the corpus.
            chunker: cuts chunks out of it.
            renderer: makes token ids of chats.
            teacher: answers; gets the renderer's stop tokens unless it has its own.
            seed_prompts: a registered name, a mapping of kinds to wordings, or an import path of one. Every kind is as
                likely as any other.
            seed: of all draws.
            conversations_per_group: conversations about one chunk.
            num_rounds: questions per conversation. For a further one the teacher, as the user, reads its own questions
                as answers and the answers as messages.
            question: decoding of questions; None is the paper's, temperature 0.6 and at most 512 tokens.
            answer: decoding of answers; None is the paper's, greedy and at most 1024 tokens.
            top_k: log-probabilities kept per answer token.
            min_mass: rows of log-probabilities are cut where they reach this mass.
            off_corpus_ids: int32 [tokens] of other text.
            off_corpus_share: share of groups that are off-corpus, 0..1.
            corpus_sha256: written into every conversation.
            corpus_before_chunk: the teacher reads the whole corpus in front of every chunk of it, and the chunk once more.

        Raises:
            ValueError, TeacherError: settings that cannot work, before anything is generated.
        """
        if off_corpus_share and (off_corpus_ids is None or not len(off_corpus_ids)):
            raise ValueError(
                f"off_corpus_share={off_corpus_share} needs off_corpus_ids; give other text, or set it to 0"
            )
        if not len(corpus_ids):
            raise ValueError("corpus_ids is empty: give a corpus with some text in it")
        self.turn: AbstractContextManager[Any] = nullcontext()
        teacher.validate(len(renderer.tokenizer), top_k)
        # What the teacher reads in front of a chunk where it reads the whole corpus there.
        self.corpus_before_chunk, self.corpus_context = corpus_before_chunk, renderer.context_ids(corpus_ids)
        if corpus_before_chunk:
            teacher.expect_prefix(self.corpus_context, opening_tokens=len(renderer.context_ids([])))
        self.corpus_ids, self.off_corpus_ids, self.off_corpus_share = (
            corpus_ids,
            off_corpus_ids,
            off_corpus_share,
        )
        self.chunker, self.renderer, self.teacher = chunker, renderer, teacher
        self.seed_prompts = resolve_seed_prompts(seed_prompts)
        self.seed, self.conversations_per_group, self.num_rounds = seed, conversations_per_group, num_rounds
        self.question, self.answer = question or Sampling(0.6, 512), answer or Sampling(0.0, 1024)
        self.top_k, self.min_mass = top_k, min_mass
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self._provenance = {
            "corpus_sha256": corpus_sha256,
            "tokenizer_fingerprint": tokenizer_fingerprint(renderer.tokenizer),
        }
        self._empty_groups = 0
        if not teacher.stop_token_ids:
            teacher.stop_token_ids = renderer.stop_token_ids()

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a group's conversations beside its index, as JSON values."""
        plain = ("seed", "conversations_per_group", "num_rounds", "top_k", "min_mass", "off_corpus_share")
        return {
            **self._provenance,
            **{name: getattr(self, name) for name in plain},
            "chunk_tokens": [self.chunker.min_tokens, self.chunker.max_tokens],
            "question": asdict(self.question),
            "answer": asdict(self.answer),
            "seed_prompts": {kind: list(wordings) for kind, wordings in self.seed_prompts.items()},
            "system_template": self.renderer.system_template,
            # Only where they say something, so that recordings from before there were such settings go on.
            **({"corpus_before_chunk": True} if self.corpus_before_chunk else {}),
            **({"teacher": self.teacher.settings} if self.teacher.settings else {}),
        }

    @property
    def reserved_tokens(self) -> int:
        """Positions that the template and the longest conversation take beside the chunk."""
        wordings = [user(wording) for kind in self.seed_prompts.values() for wording in kind]
        seed_tokens = max(len(self.renderer.prompt_ids([wording])) for wording in wordings)
        round_tokens = (
            self.question.max_new_tokens
            + self.answer.max_new_tokens
            + len(self.renderer.prompt_ids([user("")]))
        )
        return len(self.renderer.context_ids([])) + seed_tokens + self.num_rounds * round_tokens

    @property
    def longest_tokens(self) -> int:
        """Positions that a context and the longest conversation behind it take at most."""
        in_front = len(self.corpus_ids) if self.corpus_before_chunk else 0
        return in_front + min(self.chunker.max_tokens, len(self.corpus_ids)) + self.reserved_tokens

    def conversations(self, group_index: int) -> list[Conversation]:
        """The group's conversations; those whose question or answer came out empty are left out, and counted.

        Raises:
            TeacherError: the teacher failed, or several groups running came to nothing.
        """
        return next(self.conversations_of([group_index]))

    def conversations_of(self, group_indices: Iterable[int]) -> Iterator[list[Conversation]]:
        """`conversations` of groups one by one, which the teacher may make together (`Teacher.converse`)."""
        with self.turn:
            for group in self.teacher.converse(self._talk(index) for index in group_indices):
                yield self._made(group)

    def _talk(self, group_index: int) -> Talk[_Group]:
        rng = self._rng(_GROUP_STREAM, group_index)
        off_corpus = bool(rng.random() < self.off_corpus_share)
        ids = self.off_corpus_ids if off_corpus and self.off_corpus_ids is not None else self.corpus_ids
        chunk = self.chunker.chunk(ids, rng)
        first = group_index * self.conversations_per_group
        dialogues = [self._start(first + j) for j in range(self.conversations_per_group)]
        group = _Group(group_index, chunk, off_corpus, dialogues)
        context_ids = self.renderer.context_ids(chunk.token_ids)
        if self.corpus_before_chunk and not off_corpus:
            context_ids = self.corpus_context + [int(i) for i in chunk.token_ids]
        for round_index in range(self.num_rounds):
            yield from self._ask(group, round_index, context_ids)
            yield from self._reply(group, round_index, [] if off_corpus else context_ids)
        return group

    def _made(self, group: _Group) -> list[Conversation]:
        kept = [dialogue for dialogue in group.dialogues if dialogue.messages]
        self.counts["made"] += len(kept)
        self.counts.update({f"teacher/{kind}": count for kind, count in self.teacher.counts.items()})
        self._empty_groups = 0 if kept else self._empty_groups + 1
        if self._empty_groups >= _GROUPS_BEFORE_GIVING_UP:
            raise TeacherError(
                f"the teacher returned nothing for {self._empty_groups} groups of "
                f"{self.conversations_per_group} conversations running (counts: {self.counts}); check the "
                "model, its chat template and seed_prompts, or raise max_new_tokens"
            )
        # What the teacher saw while it answered: nothing, in an off-corpus group.
        system_prompt = "" if group.off_corpus else self.renderer.system_prompt(group.chunk.token_ids)
        return [
            Conversation(
                messages=tuple(dialogue.messages),
                system_prompt=system_prompt,
                metadata=self._metadata(dialogue, group.index, group.chunk),
                type="off_corpus" if group.off_corpus else "self_study",
            )
            for dialogue in kept
        ]

    def _rng(self, stream: int, number: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=(stream, number)))
        )

    def _start(self, index: int) -> Dialogue:
        rng = self._rng(_CONVERSATION_STREAM, index)
        kind = list(self.seed_prompts)[int(rng.integers(len(self.seed_prompts)))]
        wordings = self.seed_prompts[kind]
        seed_prompt = wordings[int(rng.integers(len(wordings)))]
        seeds = rng.integers(2**31, size=(self.num_rounds, 2)).tolist()
        return Dialogue(index=index, kind=kind, seed_prompt=seed_prompt, seeds=seeds)

    def _ask(self, group: _Group, round_index: int, context_ids: Sequence[int]) -> Talk[None]:
        going = [dialogue for dialogue in group.dialogues if not dialogue.ended]
        if not going:
            return
        request = Request(
            context_ids=context_ids,
            prompts=[self.renderer.prompt_ids(dialogue.as_seen_by_user()) for dialogue in going],
            sampling=self.question,
            seeds=[dialogue.seeds[round_index][0] for dialogue in going],
        )
        for dialogue, completion in zip(going, (yield from self._completed(request, group)), strict=True):
            self.counts["cut_questions"] += not completion.finished
            ids = self.renderer.without_end(completion.token_ids)
            text = self.renderer.text(ids)
            if text:
                dialogue.messages.append(Message("user", text, ids))
            else:
                self.counts["empty_questions"] += 1
                dialogue.ended = True

    def _reply(self, group: _Group, round_index: int, context_ids: Sequence[int]) -> Talk[None]:
        going = [dialogue for dialogue in group.dialogues if not dialogue.ended]
        if not going:
            return
        render = self.renderer.bare_prompt_ids if group.off_corpus else self.renderer.prompt_ids
        request = Request(
            context_ids=context_ids,
            prompts=[render(dialogue.messages) for dialogue in going],
            sampling=self.answer,
            seeds=[dialogue.seeds[round_index][1] for dialogue in going],
            top_k=self.top_k,
            min_mass=self.min_mass,
        )
        for dialogue, completion in zip(going, (yield from self._completed(request, group)), strict=True):
            text = self.renderer.text(completion.token_ids)
            self.counts["cut_answers"] += not completion.finished
            dialogue.cut_answers += not completion.finished
            if text:
                dialogue.messages.append(
                    Message("assistant", text, completion.token_ids, completion.top_logprobs)
                )
            else:
                self.counts["empty_answers"] += 1
                dialogue.messages.pop()
                dialogue.ended = True
            # A dialogue does not go on from an answer without an end.
            dialogue.ended |= not completion.finished

    def _completed(
        self, request: Request, group: _Group
    ) -> Generator[Request, list[Completion], list[Completion]]:
        try:
            completions = yield request
        except TeacherError as error:
            raise TeacherError(f"{error.headline} ({group})", details=error.details) from error
        if len(completions) != len(request.prompts):
            raise TeacherError(
                f"{type(self.teacher).__name__} gave {len(completions)} completions for {len(request.prompts)} "
                "prompts; it must give one each"
            )
        return completions

    def _metadata(self, dialogue: Dialogue, group_index: int, chunk: Chunk) -> dict[str, Scalar]:
        return {
            "group": group_index,
            "index": dialogue.index,
            "chunk_start_token": chunk.start_token,
            "chunk_num_tokens": chunk.num_tokens,
            "seed_prompt": dialogue.kind,
            "cut_answers": dialogue.cut_answers,
            **({"corpus_before_chunk": 1} if self.corpus_before_chunk else {}),
            **self._provenance,
        }
