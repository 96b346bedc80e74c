"""The stream: packed batches whose content is decided by (seed, index) alone, and which can go on from any batch.

Groups of examples are cut into rounds. A round's examples are used ``uses`` times, each time in an order of its own
that the seed and the round decide; then the next round begins, whose groups are only then made. The stream is dealt
into shards by group (shard s of S takes the groups g with g mod S = s), each packed for itself, so that a run may go on
with another number of processes: a process serves the shards of its rank in turn.

State of one shard = (round, place in the round's order): a `StreamState` holds one for each shard. With conversations off the
corpus it also has where the round's begin (`MixPlace`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from threading import Event
from time import perf_counter
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from lit_cartridges.data.batch import PackedBatch, pack
from lit_cartridges.data.off_corpus import MixPlace, OffCorpusMix
from lit_cartridges.data.sources.example import Example
from lit_cartridges.data.sources.example_source import ExampleSource
from lit_cartridges.errors import SettingError

_EMPTY_ROUNDS = 8

Place = tuple[int, int] | tuple[int, int, int, int, float]
""" (round, examples used of the round's order), and where conversations are mixed in, the round's `MixPlace`."""


@dataclass(frozen=True)
class StreamState:
    """How far each shard has been used: shard -> `Place`.

    ``turn`` counts the micro-batches that a process has used, since its shards are served in turn.
    """

    places: dict[int, Place]
    turn: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, for a checkpoint."""
        return {
            "places": [[shard, *place] for shard, place in sorted(self.places.items())],
            "turn": self.turn,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> StreamState:
        """The inverse of `state_dict`."""
        return cls({shard: tuple(place) for shard, *place in state["places"]}, state["turn"])


@dataclass(frozen=True, kw_only=True)
class RoundNews:
    """What a stream tells of a round that it fetches: before the first group, and after each.

    Attributes:
        groups, of: those that are there, and all of the round.
        writes: a teacher writes what is not recorded yet.
        made: conversations that it has written for these groups.
        seconds: since the round was begun.
        batches: packed batches that the whole round will give, as far as these groups tell.
    """

    groups: int
    of: int
    writes: bool = False
    made: int = 0
    seconds: float = 0.0
    batches: float = 0.0


@dataclass(frozen=True)
class _Round:
    """A round's examples, and where its conversations off the corpus begin and end, if there are any."""

    number: int
    examples: list[Example]
    mixed: MixPlace | None = None
    mixed_after: MixPlace = MixPlace()

    def place(self, used: int) -> Place:
        """Of the example behind so many of the round's order."""
        return (self.number, used) if self.mixed is None else (self.number, used, *self.mixed)

    @property
    def end(self) -> Place:
        """Of the next round's first."""
        return (self.number + 1, 0) if self.mixed is None else (self.number + 1, 0, *self.mixed_after)


class ExampleStream(IterableDataset[PackedBatch]):
    """An endless stream of packed batches.

    To iterate again is to go on from where the last used batch ends, not from the beginning: an epoch is a stretch of the
    stream. Only one iterator at a time gives batches; a new one ends those before it.

    Args:
        source: gives groups of examples by index.
        tokens_per_batch: the most tokens of a packed batch.
        groups_per_round, uses: groups that are mixed with each other, and how often each example is used.
        seed: decides the orders.
        num_shards, shards: into how many the stream is dealt, and which of them this process serves.
        batches_per_step: micro-batches of an optimizer step; they learn of each other's number of targets.
        start: where to go on, or what tells so whenever an epoch begins; by default what was used last.
        on_used: told where the stream stands whenever an optimizer step's last batch has been used (`PackedBatch.used`).
        skip: what tells how many batches from there the first iterator leaves out.
        threaded: make the next round in a thread while this one trains.
        beside: what that thread is in while it makes a round.
        in_step: what to be in while a batch is fetched, which may generate more or less than on other processes.
        on_group: is told how a round goes; by the thread that makes it, if there is one.
        off_corpus: puts conversations off the corpus into every round.
    """

    def __init__(
        self,
        source: ExampleSource,
        *,
        tokens_per_batch: int,
        groups_per_round: int = 4,
        uses: int = 1,
        seed: int = 0,
        num_shards: int = 1,
        shards: tuple[int, ...] = (0,),
        batches_per_step: int = 1,
        start: StreamState | Callable[[], StreamState] | None = None,
        on_used: Callable[[StreamState], None] | None = None,
        skip: Callable[[], int] = int,
        threaded: bool = False,
        beside: Callable[[], AbstractContextManager[Any]] = nullcontext,
        in_step: Callable[[], AbstractContextManager[Any]] = nullcontext,
        on_group: Callable[[RoundNews], None] | None = None,
        off_corpus: OffCorpusMix | None = None,
    ) -> None:
        for name, value in (
            ("groups_per_round", groups_per_round),
            ("uses", uses),
            ("num_shards", num_shards),
        ):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if tokens_per_batch < 2:
            raise ValueError(
                f"tokens_per_batch={tokens_per_batch} must be at least 2: a prompt and an answer token"
            )
        self.source, self.tokens_per_batch = source, tokens_per_batch
        self.groups_per_round, self.uses, self.seed = groups_per_round, uses, seed
        self.num_shards, self.shards, self.batches_per_step = num_shards, shards, batches_per_step
        self.state = StreamState({}) if start is None or callable(start) else start
        self.start = start if callable(start) else lambda: self.state
        self.on_used = on_used
        self.skip, self.in_step, self.on_group = skip, in_step, on_group
        self.threaded, self.beside, self.off_corpus = threaded, beside, off_corpus
        self._running: Generator[PackedBatch] | None = None
        self._ending = Event()
        self._reached: StreamState | None = None  # after the last batch given, unless that is within a step
        self.counts: dict[str, float] = {"cut_conversations": 0, "cut_answer_tokens": 0}

    def used(self, state: StreamState) -> None:
        """What was made up to here has been trained on."""
        self.state = state
        if self.on_used is not None:
            self.on_used(state)

    def __iter__(self) -> Iterator[PackedBatch]:
        if (worker := get_worker_info()) is not None:
            raise SettingError(
                "the stream makes its batches in the process that trains; give its DataLoader 0",
                num_workers=worker.num_workers,
            )
        if self._running is None or self._reached != self.start():
            skip = self.skip if self._running is None else int
            self.close()
            self._ending = Event()
            self._running = self._batches(skip)
        return self._running

    def close(self) -> None:
        """End the iterator, and wait for the group of conversations that its thread may be making."""
        self._ending.set()
        if self._running is not None:
            self._running.close()

    def _batches(self, skip: Callable[[], int]) -> Generator[PackedBatch]:
        # Asked for with the first batch: a checkpoint may be loaded between `iter` and that.
        start, left_out = self.start(), skip()
        places = {shard: start.places.get(shard, (0, 0)) for shard in self.shards}
        shards = {shard: self._shard_batches(shard, places[shard]) for shard in self.shards}
        turn = start.turn
        while True:
            window: list[PackedBatch] = []
            self._reached = None
            for _ in range(self.batches_per_step):
                shard = self.shards[turn % len(self.shards)]
                with self.in_step():
                    batch, places[shard] = next(shards[shard])
                window.append(batch)
                turn += 1
            answers = sum(len(batch.target_rows) for batch in window)
            for number, batch in enumerate(window, start=1):
                done = StreamState(dict(places), turn) if number == len(window) else None
                if left_out > 0:
                    left_out -= 1
                    continue
                self._reached = done
                counts = {**self.counts, **self.source.counts}
                yield replace(batch, window_answers=answers, stream_state=done, stream=self, counts=counts)

    def _shard_batches(self, shard: int, place: Place) -> Iterator[tuple[PackedBatch, Place]]:
        """Packed batches of one shard, each with the place from which the next would begin."""
        pending: list[Example] = []
        tokens, after = 0, place
        for example, here, following in self._shard_examples(shard, place):
            if pending and tokens + len(example.token_ids) > self.tokens_per_batch:
                yield pack(pending), here
                pending, tokens = [], 0
            pending.append(example)
            tokens += len(example.token_ids)
            after = following
            if tokens == self.tokens_per_batch:
                yield pack(pending), after
                pending, tokens = [], 0

    def _shard_examples(self, shard: int, place: Place) -> Iterator[tuple[Example, Place, Place]]:
        """Examples with their own place and the next one's."""
        begin, first = place[:2]
        empty_rounds = 0
        for made in self._rounds(shard, begin, MixPlace(*place[2:])):
            examples = made.examples
            empty_rounds = 0 if examples else empty_rounds + 1
            if empty_rounds >= _EMPTY_ROUNDS:
                raise ValueError(
                    f"{_EMPTY_ROUNDS} rounds running gave no example with an answer token among its first "
                    f"tokens_per_batch={self.tokens_per_batch} tokens; raise that, or see the log for what the "
                    "teacher returned"
                )
            order = self._order(shard, made.number, len(examples))
            for i in range(first, len(order)):
                following = made.place(i + 1) if i + 1 < len(order) else made.end
                yield examples[order[i]], made.place(i), following
            first = 0

    def _rounds(self, shard: int, first: int, mixed: MixPlace) -> Iterator[_Round]:
        if not self.threaded:
            made = self._mixed_round(shard, first, mixed)
            while True:
                yield made
                made = self._mixed_round(shard, made.number + 1, made.mixed_after)
        with ThreadPoolExecutor(max_workers=1) as executor:
            ahead = executor.submit(self._round_beside, shard, first, mixed)
            while True:
                made = ahead.result()
                ahead = executor.submit(self._round_beside, shard, made.number + 1, made.mixed_after)
                yield made

    def _round_beside(self, shard: int, round_: int, mixed: MixPlace) -> _Round:
        with self.beside():
            return self._mixed_round(shard, round_, mixed)

    def _mixed_round(self, shard: int, round_: int, mixed: MixPlace) -> _Round:
        examples, mix = self._round(shard, round_), self.off_corpus
        if mix is None:
            return _Round(round_, examples)
        if self._ending.is_set():
            return _Round(round_, examples, mixed, mixed)
        beside, after = mix.beside(
            examples, mixed, shard=shard, num_shards=self.num_shards, fitted=self._fitted
        )
        return _Round(round_, examples + beside, mixed, after)

    def _round(self, shard: int, round_: int) -> list[Example]:
        first = round_ * self.groups_per_round
        groups = [shard + self.num_shards * (first + i) for i in range(self.groups_per_round)]
        together = getattr(self.source, "examples_of", None)
        examples: list[Example] = []
        begun, made, ending = perf_counter(), self._made, self._ending
        self._tell(0, [], 0, 0.0)
        making = together(groups) if together else map(self.source.examples, groups)
        for done, group in enumerate(making, start=1):
            fitted = (self._fitted(example) for example in group)
            examples += [example for example in fitted if len(example.target_ids)]
            self._tell(done, examples, self._made - made, perf_counter() - begun)
            if ending.is_set():  # nobody waits for the rest
                break
        return examples

    @property
    def _made(self) -> int:
        return int(self.source.counts.get("synthesis/made", 0))

    def _tell(self, groups: int, examples: list[Example], made: int, seconds: float) -> None:
        if self.on_group is None:
            return
        tokens = sum(len(example.token_ids) for example in examples)
        room = self.tokens_per_batch - tokens / max(len(examples), 1) / 2  # the next example seldom fits
        batches = self.uses * tokens / room * self.groups_per_round / max(groups, 1)
        writes = getattr(self.source, "writes", False)
        news = RoundNews(
            groups=groups,
            of=self.groups_per_round,
            writes=writes,
            made=made,
            seconds=seconds,
            batches=batches,
        )
        self.on_group(news)

    def _order(self, shard: int, round_: int, count: int) -> list[int]:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, 1, shard, round_])))
        return [int(i) for _ in range(self.uses) for i in rng.permutation(count)]

    def _fitted(self, example: Example) -> Example:
        if len(example.token_ids) <= self.tokens_per_batch:
            return example
        fitted = example.cut(self.tokens_per_batch)
        self.counts["cut_conversations"] += 1
        self.counts["cut_answer_tokens"] += len(example.target_ids) - len(fitted.target_ids)
        return fitted
