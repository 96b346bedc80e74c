"""Conversations that the frozen model has with itself about the corpus (arXiv 2506.06266, §4.1)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.student import Student
from lit_cartridges.corpora.chunkers import TokenChunker
from lit_cartridges.corpora.open_corpus import Corpus, open_corpus
from lit_cartridges.data.sources.beside import Turn, beside_training
from lit_cartridges.data.sources.example_source import ExampleSource, conversation_examples
from lit_cartridges.data.sources.proportions import tell_long_chunks
from lit_cartridges.data.sources.source import Source
from lit_cartridges.errors import SettingError, called
from lit_cartridges.runs.run_settings import constructed, text_identity
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.self_study.room import require_room
from lit_cartridges.self_study.seed_prompts import resolve_seed_prompts
from lit_cartridges.self_study.synthesizer import Synthesizer
from lit_cartridges.settings import (
    Count,
    DeviceName,
    NonNegativeInt,
    PositiveInt,
    PositiveShare,
    ReadCorpus,
    Share,
    Temperature,
    WriteFolderName,
    checked,
)
from lit_cartridges.strategies.frozen_models import load_frozen_model
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Sampling, Teacher

# Of the conversations that an init strategy asks for: few, so that a handful still comes from several parts of the corpus.
_ASKED_PER_CHUNK = 4


class SelfStudy(Source):
    """The teacher asks itself about chunks of the corpus and answers; every conversation is recorded as it is made.

    Args:
        teacher: who asks and answers; the run's own frozen model by default.
        min_chunk_tokens, max_chunk_tokens: bounds of a chunk's random length.
        seed_prompts: "paper", another registered name, a mapping of kinds to wordings, or an import path of one.
        corpus_before_chunk: the teacher reads the whole corpus in front of every chunk, and the chunk once more behind it, so
            that it can ask and answer about both. A LocalTeacher with a cascade reads a corpus of any length.
        conversations_per_group: conversations about one chunk, which share its prefill.
        num_rounds: questions and answers per conversation.
        question_temperature, question_max_tokens: how the questions are decoded.
        answer_temperature, answer_max_tokens: how the answers are decoded.
        top_k, min_mass: log-probabilities recorded per answer token, and the mass at which they are cut.
        off_corpus: other text, for conversations answered without any context.
        off_corpus_share: their share of the groups, 0 to 1.
        overlap: a teacher in process writes the next round in a thread, and on CUDA in a stream of its own, while this one is
            trained on. (A server always does.) What it writes stays the same; the round takes its memory beside the step's.
        teacher_device: another device for a teacher in process, such as "cuda:1": it gets a copy of its model there, and writes
            while the run trains. One process only.
        recording: folder for the conversations as they are made; by default ``recording`` in the run's folder.
    """

    @checked
    def __init__(
        self,
        *,
        teacher: Teacher | None = None,
        min_chunk_tokens: PositiveInt = 512,
        max_chunk_tokens: PositiveInt = 4096,
        seed_prompts: str | dict[str, list[str]] = "paper",
        corpus_before_chunk: bool = False,
        conversations_per_group: Count = 16,
        num_rounds: Count = 1,
        question_temperature: Temperature = 0.6,
        question_max_tokens: PositiveInt = 512,
        answer_temperature: Temperature = 0.0,
        answer_max_tokens: PositiveInt = 1024,
        top_k: NonNegativeInt = 20,
        min_mass: PositiveShare = 0.99,
        off_corpus: Corpus | ReadCorpus | None = None,
        off_corpus_share: Share = 0.0,
        overlap: bool = False,
        teacher_device: DeviceName | None = None,
        recording: WriteFolderName | None = None,
    ) -> None:
        if min_chunk_tokens > max_chunk_tokens:
            raise SettingError(
                "the shortest chunk is longer than the longest (the paper: 512, 4096)",
                min_chunk_tokens=min_chunk_tokens,
                max_chunk_tokens=max_chunk_tokens,
            )
        if off_corpus_share and off_corpus is None:
            raise SettingError("needs off_corpus; give other text, or 0", off_corpus_share=off_corpus_share)
        self.teacher = teacher or LocalTeacher()
        self.chunker = TokenChunker(min_tokens=min_chunk_tokens, max_tokens=max_chunk_tokens)
        self.seed_prompts, self.corpus_before_chunk = seed_prompts, corpus_before_chunk
        self.conversations_per_group, self.num_rounds = conversations_per_group, num_rounds
        self.question = Sampling(question_temperature, question_max_tokens)
        self.answer = Sampling(answer_temperature, answer_max_tokens)
        self.top_k, self.min_mass = top_k, min_mass
        self.off_corpus = open_corpus(off_corpus) if isinstance(off_corpus, str | Path) else off_corpus
        self.off_corpus_share, self.recording_folder = off_corpus_share, recording
        if teacher_device is not None and not self.teacher.runs_model:
            raise SettingError(
                f"is for a teacher in process, and {type(self.teacher).__name__} has its own; leave it out",
                teacher_device=teacher_device,
            )
        self.overlap, self.teacher_device = overlap, teacher_device
        self.threaded = overlap or teacher_device is not None or not self.teacher.runs_model
        self._turn = Turn()
        self._asked: PreTrainedModel | None = None

    def connect(self, student: Student, material: Material) -> None:
        """See `Source`; every conversation must fit the model's positions."""
        super().connect(student, material)
        self._off_corpus_ids = self._tokens_off_corpus()
        synthesizer = self.synthesizer(seed=0)
        require_room(synthesizer, student.config, read_again=student.objective.needs_teacher_hidden)
        self.teacher.expect_model(student.frozen_teacher, longest_tokens=synthesizer.longest_tokens)

    def tell_proportions(self, corpus_tokens: int) -> None:
        """See `Source`."""
        chunks = self.chunker
        tell_long_chunks(
            min_tokens=chunks.min_tokens, max_tokens=chunks.max_tokens, corpus_tokens=corpus_tokens
        )

    def _tokens_off_corpus(self) -> NDArray[Any] | None:
        if self.off_corpus is None:
            return None
        with called("off_corpus", getattr(self.off_corpus, "path", "")):
            return self.off_corpus.token_ids(self.student.tokenizer)

    def synthesizer(self, *, seed: int) -> Synthesizer:
        """Makes the conversations that ``seed`` decides, once connected; before it is used the teacher must be bound."""
        made = Synthesizer(
            corpus_ids=self.material.corpus_ids,
            chunker=self.chunker,
            renderer=self.material.renderer,
            teacher=self.teacher,
            seed_prompts=self.seed_prompts,
            seed=seed,
            conversations_per_group=self.conversations_per_group,
            num_rounds=self.num_rounds,
            question=self.question,
            answer=self.answer,
            top_k=self.top_k,
            min_mass=self.min_mass,
            off_corpus_ids=self._off_corpus_ids,
            off_corpus_share=self.off_corpus_share,
            corpus_sha256=self.material.corpus_sha256,
            corpus_before_chunk=self.corpus_before_chunk,
        )
        self.share_turn(made)
        return made

    def share_turn(self, maker: Any) -> None:
        """One round after the other, whichever thread wants it, where a teacher in process writes beside the training."""
        if self.teacher.runs_model and self.threaded:
            maker.turn = self._turn

    def examples(self, *, seed: int, root: Path | None = None) -> ExampleSource:
        """See `Source`."""
        self.teacher.prepare()
        synthesizer, recording = self.synthesizer(seed=seed), None
        if root is not None:
            recording = Recording(
                self.recording_folder or str(root / "recording"),
                tokenizer=self.student.tokenizer,
                settings=synthesizer.settings,
                vocab_size=self.student.vocab_size,
            )
        return conversation_examples(
            synthesizer, self.student, self.material, top_k=self.top_k, recording=recording
        )

    def conversations(self, count: int, *, seed: int, progress: bool = False) -> list[list[int]]:
        """Made apart from the stream: they are not recorded, and take nothing from what is trained on. All are about the
        corpus, and (seed, number) decides each."""
        synthesizer = self.synthesizer(seed=seed)
        synthesizer.conversations_per_group = min(self.conversations_per_group, _ASKED_PER_CHUNK)
        synthesizer.off_corpus_share, synthesizer.top_k = 0.0, 0
        made: list[list[int]] = []
        with SteadyBar(total=count, desc="conversations", disable=not progress, leave=False) as bar:
            groups = numbers()
            while len(made) < count:
                wanted = -(-(count - len(made)) // synthesizer.conversations_per_group)
                for group in synthesizer.conversations_of(islice(groups, wanted)):
                    made += [self.material.renderer.conversation_ids(c.messages)[0].tolist() for c in group]
                    bar.update(len(group))
        return made[:count]

    def bind_teacher(self, model: PreTrainedModel | None) -> None:
        """See `Source`."""
        if self.teacher_device is not None:
            model = self._copy_of_its_own(_device(self.teacher_device))
        self._asked = model
        self.teacher.bind(model, self.student.tokenizer)

    def _copy_of_its_own(self, device: torch.device) -> PreTrainedModel:
        frozen = self.student.frozen_teacher
        if frozen is None:
            raise SettingError(
                "needs a model that is known by its name; leave it out", teacher_device=self.teacher_device
            )
        if frozen.device_map is not None:
            raise SettingError(
                "says where the model is already; leave one of the two out",
                {"model.device_map": frozen.device_map, "data.source.teacher_device": self.teacher_device},
            )
        if self._asked is not None and self._asked.device == device:
            return self._asked
        return load_frozen_model(None, frozen.name, device=device, **frozen.options)

    def check_strategy(self, strategy: Any) -> None:
        """See `Source`."""
        if self.overlap and self.teacher.runs_model and getattr(strategy, "shards_frozen_models", False):
            raise SettingError(
                f"cannot work where processes share a model's weights, as {type(strategy).__name__} of stage 3 has them; leave "
                "it out, or choose another teacher",
                {"data.source.overlap": True},
            )
        if self.teacher_device is not None and getattr(strategy, "world_size", 1) > 1:
            raise SettingError(
                "is one device, and the run has several processes; leave it out, or choose another teacher",
                {"data.source.teacher_device": self.teacher_device},
            )

    def beside(self) -> AbstractContextManager[None]:
        """See `Source`."""
        runs_here = self.teacher.runs_model and self._asked is not None
        return beside_training(self._asked.device) if runs_here else nullcontext()  # type: ignore[union-attr]

    def close(self) -> None:
        """See `Source`."""
        self.teacher.close()

    def run_settings(self) -> dict[str, Any]:
        """See `Source`. Seed prompts stand as pairs: the order of kinds decides which of them a number draws."""
        return constructed(
            self,
            "data.source",
            min_chunk_tokens=self.chunker.min_tokens,
            max_chunk_tokens=self.chunker.max_tokens,
            seed_prompts=[*resolve_seed_prompts(self.seed_prompts).items()],
            question_temperature=self.question.temperature,
            question_max_tokens=self.question.max_new_tokens,
            answer_temperature=self.answer.temperature,
            answer_max_tokens=self.answer.max_new_tokens,
            off_corpus=text_identity(self.off_corpus),
            recording=self.recording_folder,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
