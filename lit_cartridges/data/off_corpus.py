"""Conversations off the corpus in the stream: a fraction of its supervised tokens (Cartridges++, 2026, «data mixing»).

Of S supervised tokens about the corpus, f·S / (1 - f) come beside them. What a round still owes is carried into the next, and
is part of the stream's place, so that the fraction holds to within one conversation however short the rounds are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel

from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.requests import SUFFIXES, read_requests
from lit_cartridges.conversations.student import Student
from lit_cartridges.data.sources.example import Example
from lit_cartridges.data.sources.example_source import ExampleSource, conversation_examples
from lit_cartridges.data.sources.self_study import SelfStudy
from lit_cartridges.data.sources.source import Source
from lit_cartridges.errors import SettingError, called
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.runs.run_settings import identity
from lit_cartridges.self_study.general import GeneralConversations
from lit_cartridges.self_study.general_prompts import GENERAL_PROMPTS  # noqa: F401  registers them
from lit_cartridges.self_study.seed_prompts import resolve_seed_prompts
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Sampling

DEFAULT_FRACTION = 0.05
_EMPTY_GROUPS = 8

Requests = Sequence[str] | Mapping[str, Sequence[str]]


def requests_of(name: str) -> Requests:
    """The users' messages of the file, or the seed prompts, that ``data.off_corpus`` names.

    Raises:
        ValueError: there is no such file, nobody asks anything in it, or no seed prompts have this name.
    """
    if Path(name).suffix.lower() in SUFFIXES:
        with called("off_corpus", name):
            return read_requests(name)
    if Path(name).exists():
        raise SettingError(f"must be a chat data set ({', '.join(SUFFIXES)})", off_corpus=name)
    try:
        return resolve_seed_prompts(name)
    except ValueError as error:
        raise SettingError(
            f"is no chat data set ({', '.join(SUFFIXES)}), and its seed prompts cannot be had: {error}",
            off_corpus=name,
        ) from error


class OffCorpus:
    """What ``data.off_corpus`` and ``data.off_corpus_fraction`` ask for, beside a run's own source of examples.

    A SelfStudy source lends its teacher, and how that asks and answers; beside another one the run's model answers.

    Args:
        name: a chat data set, or seed prompts.
        fraction: of the supervised tokens.
    """

    def __init__(self, *, name: str, fraction: float) -> None:
        self.name, self.fraction = name, fraction
        self._requests = requests_of(name)

    def connect(self, student: Student, material: Material, source: Source, *, tokens_per_batch: int) -> None:
        """Take the student and the source.

        Raises:
            SettingError: there is no room for any request.
        """
        self.student, self.material, self.source = student, material, source
        study = source if isinstance(source, SelfStudy) else None
        self._own = None if study else LocalTeacher()
        self._teacher = study.teacher if study else self._own
        limit = max_positions(student.config)
        behind = tokens_per_batch if limit is None else limit - (student.num_tokens or 0)
        half = max(1, min(behind, tokens_per_batch) // 2)
        self._question = study.question if study else Sampling(0.6, min(512, half))
        self._answer = study.answer if study else Sampling(0.0, min(1024, half))
        self._min_mass = study.min_mass if study else 0.99
        room = [tokens_per_batch - 1]
        if limit is not None:
            room.append(behind - self._answer.max_new_tokens)
        if (
            study and not study.teacher.runs_model
        ):  # an engine of its own has no more positions than the run asked for
            room.append(study.synthesizer(seed=0).longest_tokens - self._answer.max_new_tokens)
        self._longest_tokens = min(room)
        if self._longest_tokens < 1:
            raise SettingError(
                f"there is no room for a request: the model has {limit} positions, the cartridge takes {student.num_tokens} and "
                f"an answer up to {self._answer.max_new_tokens} (answer_max_tokens); lower one of them",
                off_corpus=self.name,
            )

    def bind_teacher(self, model: PreTrainedModel) -> None:
        """Take the frozen model, where no source has a teacher."""
        if self._own is not None:
            self._own.bind(model, self.student.tokenizer)

    def close(self) -> None:
        """Give back what an own teacher holds."""
        if self._own is not None:
            self._own.close()

    def mix(self, *, seed: int, root: Path | None) -> OffCorpusMix | None:
        """For a stream; None at a fraction of 0.

        Args:
            root: the run's folder; the conversations are kept beside the recording of the others. None keeps nothing.
        """
        if not self.fraction:
            return None
        assert self._teacher is not None
        made = GeneralConversations(
            requests=self._requests,
            renderer=self.material.renderer,
            teacher=self._teacher,
            seed=seed,
            question=self._question,
            answer=self._answer,
            top_k=self.source.top_k,
            min_mass=self._min_mass,
            longest_tokens=self._longest_tokens,
        )
        recording = None
        if isinstance(self.source, SelfStudy):
            self.source.share_turn(made)
        if root is not None:
            beside = getattr(self.source, "recording_folder", None) or root / "recording"
            recording = Recording(
                f"{beside}_off_corpus",
                tokenizer=self.student.tokenizer,
                settings=made.settings,
                vocab_size=self.student.vocab_size,
            )
        examples = conversation_examples(
            made, self.student, self.material, top_k=self.source.top_k, recording=recording
        )
        return OffCorpusMix(source=examples, fraction=self.fraction)

    def identity(self) -> dict[str, str]:
        """By its content, as a checkpoint keeps it."""
        return identity(hashlib.sha256(json.dumps(self._requests).encode()).hexdigest(), self.name)


class MixPlace(NamedTuple):
    """Where a shard stands: its next group off the corpus, the next conversation in it, and the tokens that are owed."""

    group: int = 0
    used: int = 0
    owed: float = 0.0


@dataclass(frozen=True, kw_only=True)
class OffCorpusMix:
    """Puts examples off the corpus beside those about it.

    Args:
        source: gives the former, by group.
        fraction: of the supervised tokens of both, 0 < fraction < 1.
    """

    source: ExampleSource
    fraction: float

    def beside(
        self,
        about: Sequence[Example],
        place: MixPlace,
        *,
        shard: int,
        num_shards: int,
        fitted: Callable[[Example], Example],
    ) -> tuple[list[Example], MixPlace]:
        """The examples for a round whose others are ``about``, and the place behind them."""
        owed = place.owed + self.fraction / (1 - self.fraction) * _tokens(about)
        taken: list[Example] = []
        examples = self._from(place, shard, num_shards)
        while owed > 0:
            place, example = next(examples)
            example = fitted(example)
            if len(example.target_ids):
                taken.append(example)
                owed -= len(example.target_ids)
        return taken, place._replace(owed=owed)

    def _from(self, place: MixPlace, shard: int, num_shards: int) -> Iterator[tuple[MixPlace, Example]]:
        """The shard's examples from a place on, each with the place behind it."""
        group, used, empty = place.group, place.used, 0
        while True:
            examples = self.source.examples(shard + num_shards * group)
            empty = 0 if examples else empty + 1
            if empty >= _EMPTY_GROUPS:
                raise ValueError(
                    f"off_corpus: {_EMPTY_GROUPS} groups running gave no conversation: every request was too long for the row "
                    "(tokens_per_batch) or the model, or had no answer"
                )
            for number in range(used, len(examples)):
                last = number + 1 == len(examples)
                yield MixPlace(*((group + 1, 0) if last else (group, number + 1))), examples[number]
            group, used = group + 1, 0


def _tokens(examples: Sequence[Example]) -> int:
    return sum(len(example.target_ids) for example in examples)
