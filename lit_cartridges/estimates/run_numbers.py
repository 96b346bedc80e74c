"""A run in plain numbers: all that an estimate needs of a recipe, its corpus and its tokenizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lit_cartridges.estimates.lengths import Lengths
from lit_cartridges.estimates.roofline import Work

LOCAL, SERVED, NONE = "in process", "served", "none"


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """What decides a run's memory, work and files.

    Attributes:
        steps: optimizer steps.
        rows_per_step: packed rows of a step on one process (`accumulate_grad_batches`).
        processes, strategy: how many, and "DDP" (also for one), "ZeRO-3" or "offload".
        num_tokens, num_frozen_tokens: of the cartridge.
        element_bytes: of a frozen weight.
        weights: elements of the student, and of another teacher in process, if there is one.
        recompute, loss_chunk_tokens: how a step is taken.
        teacher: who writes the conversations: LOCAL, SERVED, or NONE where they are there already.
        tokens_per_batch, uses, groups_per_round, conversations_per_group, num_shards, rounds: of the stream; ``rounds`` are
            questions of a conversation, and ``groups_per_round`` groups of a round of the stream.
        template_tokens: of the chat template around a question and its answer.
        seed_tokens: mean of a seed prompt, its template included.
        chunk_tokens, longest_chunk_tokens: of what a teacher reads in front, the template's opening included.
        corpus_in_front_tokens: of the corpus where the teacher reads it in front of every chunk.
        question_max_tokens, answer_max_tokens: the limits.
        lengths: of questions and answers.
        top_k: log-probabilities of an answer token.
        rows_side_by_side: conversations that a teacher in process decodes at a time.
        reads_again: the objective lets the teacher read each conversation behind its chunk in every step.
        threaded: conversations are made while the run trains.
    """

    steps: int
    rows_per_step: int
    processes: int
    strategy: str
    num_tokens: int
    num_frozen_tokens: int
    element_bytes: int
    weights: int
    recompute: bool
    loss_chunk_tokens: int
    teacher: str
    tokens_per_batch: int
    uses: int
    groups_per_round: int
    num_shards: int
    template_tokens: int
    lengths: Lengths
    top_k: int
    conversations_per_group: int = 1
    rounds: int = 1
    seed_tokens: int = 0
    chunk_tokens: int = 0
    longest_chunk_tokens: int = 0
    corpus_in_front_tokens: int = 0
    question_max_tokens: int = 1
    answer_max_tokens: int = 1
    rows_side_by_side: int = 1
    reads_again: bool = False
    threaded: bool = False

    @property
    def conversations_per_row(self) -> float:
        """Mean of a packed row."""
        return self.lengths.conversations_per_row(
            template_tokens=self.template_tokens, rounds=self.rounds, tokens_per_batch=self.tokens_per_batch
        )

    @property
    def rows(self) -> int:
        """Packed rows that all processes train on."""
        return self.steps * self.rows_per_step * self.processes

    @property
    def groups(self) -> int:
        """That are made: whole rounds of every shard, for the steps and for the one that Lightning fetches ahead, and one
        round more where a thread makes the next while the last is used."""
        if self.teacher == NONE:
            return 0
        used = (self.steps + 1) * self.rows_per_step * self.processes * self.conversations_per_row
        a_round = self.groups_per_round * self.conversations_per_group * self.uses
        rounds = math.ceil(used / self.num_shards / a_round) + self.threaded
        return rounds * self.groups_per_round * self.num_shards

    @property
    def conversations(self) -> int:
        """That are made, before those that come out empty are left out."""
        return self.groups * self.conversations_per_group

    @property
    def talk_tokens(self) -> float:
        """That the student reads of a conversation."""
        return self.rounds * (self.template_tokens + self.lengths.question + self.lengths.answer) - 1

    @property
    def read_tokens_per_conversation(self) -> float:
        """That the teacher reads: what is in front, shared by a group; in each round the seed prompt and the question."""
        in_front = (self.chunk_tokens + self.corpus_in_front_tokens) / self.conversations_per_group
        return in_front + self.rounds * (self.seed_tokens + self.template_tokens + self.lengths.question)

    @property
    def generated_tokens_per_conversation(self) -> float:
        """Questions and answers, with their end tokens."""
        return self.rounds * (self.lengths.question + self.lengths.answer)

    @property
    def chunks_held(self) -> int:
        """At most, by a teacher in process, whose rows read different chunks."""
        return min(
            self.groups_per_round, math.ceil(2 * self.rows_side_by_side / self.conversations_per_group)
        )

    def work(self, *, longest: bool) -> Work:
        """For the roofline: a mean conversation of one round, or of the longest that there may be."""
        lengths = self.lengths
        question = self.question_max_tokens if longest else lengths.longest_question
        answer = self.answer_max_tokens if longest else lengths.longest_answer
        # What is held is that of a full batch; hours are told of groups one by one.
        together = self.conversations_per_group * (self.groups_per_round if longest else 1)
        return Work(
            cartridge_tokens=self.num_tokens,
            row_tokens=self.tokens_per_batch,
            loss_chunk_tokens=self.loss_chunk_tokens,
            element_bytes=self.element_bytes,
            prompt_tokens=self.template_tokens,
            seed_tokens=max(0, self.seed_tokens - self.template_tokens),
            question_tokens=round(lengths.question),
            answer_tokens=max(1, round(lengths.answer)),
            longest_question_tokens=math.ceil(question),
            longest_answer_tokens=math.ceil(answer),
            chunk_tokens=self.chunk_tokens + self.corpus_in_front_tokens,
            longest_chunk_tokens=self.longest_chunk_tokens + self.corpus_in_front_tokens,
            rows_per_group=min(self.rows_side_by_side, together),
        )
