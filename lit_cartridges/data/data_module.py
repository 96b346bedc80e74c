"""Streams self-study conversations into training, generated on the fly (arXiv 2506.06266, §4.1).

Data flow: corpus → chunker → `Synthesizer` with the teacher → recording → `ExampleStream` → trainer. The student's
module lends its tokenizer, and its frozen model as the teacher, once that is loaded.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from lit_cartridges.conversations.conversation import Conversation, ConversationError
from lit_cartridges.conversations.parquet import conversation_files
from lit_cartridges.conversations.recorded import RecordedConversations
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.conversations.tokenizer_check import RecordingError
from lit_cartridges.corpora.chunkers import TokenChunker
from lit_cartridges.corpora.open_corpus import Corpus, open_corpus
from lit_cartridges.data.batch import PackedBatch, packed
from lit_cartridges.data.example_source import (
    ConversationExamples,
    ConversationSource,
    CorpusExamples,
    ExampleSource,
)
from lit_cartridges.data.proportions import tell_long_cartridge, tell_long_chunks, tell_long_windows
from lit_cartridges.data.stream import ExampleStream, StreamState
from lit_cartridges.errors import SettingError, called
from lit_cartridges.runs.run_settings import constructed, files_identity, identity
from lit_cartridges.self_study.room import READ_AGAIN_ERROR, require_room
from lit_cartridges.self_study.seed_prompts import SeedPromptError, resolve_seed_prompts
from lit_cartridges.self_study.synthesizer import Synthesizer
from lit_cartridges.settings import (
    BatchTokens,
    ChunkTemplate,
    Count,
    NonNegativeInt,
    PositiveInt,
    PositiveShare,
    Range,
    ReadCorpus,
    ReadPath,
    Seed,
    Share,
    Temperature,
    WriteFolderName,
    checked,
)
from lit_cartridges.strategies.frozen_models import in_step
from lit_cartridges.strategies.lost_process import explain_lost_process
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Sampling, Teacher
from lit_cartridges.text import text_ids

# Added to the seed for conversations that are not trained on.
_VALIDATION_SEED = 1_000_003


class SelfStudyDataModule(L.LightningDataModule):
    """Conversations about a corpus, an endless stream of packed batches.

    Args:
        corpus: the documents to store: the path of a file or a folder (docs/corpora.md), or a reader.
        teacher: who writes the conversations; the module's own frozen model by default.
        recorded: a recording (a .parquet file or a folder of them) to train on; nothing is generated then.
        raw_corpus: train on windows of the corpus itself instead of conversations (with the NextToken objective: the
            paper's naive baseline).
        window_tokens: length of these windows.
        min_chunk_tokens, max_chunk_tokens: bounds of a chunk's random length.
        seed_prompts: "paper", another registered name, a mapping of kinds to wordings, or an import path of one.
        system_template: the system message in which the teacher sees ``{chunk}``.
        enable_thinking: let models that can think do so.
        corpus_before_chunk: the teacher reads the whole corpus in front of every chunk, and the chunk once more behind it, so
            that it can ask and answer about both. A LocalTeacher with a cascade reads a corpus of any length.
        conversations_per_group: conversations about one chunk, which share its prefill.
        groups_per_round: groups mixed with each other in one round.
        uses: times that each conversation is trained on.
        num_rounds: questions and answers per conversation.
        question_temperature, question_max_tokens: how the questions are decoded.
        answer_temperature, answer_max_tokens: how the answers are decoded.
        top_k, min_mass: log-probabilities recorded per answer token, and the mass at which they are cut.
        off_corpus: other text, for conversations answered without any context.
        off_corpus_share: their share of the groups, 0 to 1.
        tokens_per_batch: the most tokens of a packed micro-batch.
        num_shards: shards of the stream; by default one per process. Keep it when resuming on other machines.
        validation: a recording to validate on; by default fresh conversations of another seed.
        validation_groups: groups of them that ``validate`` and ``test`` score.
        recording: folder for the conversations as they are made; by default ``recording`` in the trainer's root folder.
        seed: decides chunks, seed prompts, sampling and order.
    """

    @checked
    def __init__(
        self,
        *,
        corpus: Corpus | ReadCorpus,
        teacher: Teacher | None = None,
        recorded: ReadPath | None = None,
        raw_corpus: bool = False,
        window_tokens: Annotated[int, Range(least=2, most=2**31 - 1)] = 512,
        min_chunk_tokens: PositiveInt = 512,
        max_chunk_tokens: PositiveInt = 4096,
        seed_prompts: str | dict[str, list[str]] = "paper",
        system_template: ChunkTemplate = "{chunk}",
        enable_thinking: bool = False,
        corpus_before_chunk: bool = False,
        conversations_per_group: Count = 16,
        groups_per_round: Count = 4,
        uses: Count = 1,
        num_rounds: Count = 1,
        question_temperature: Temperature = 0.6,
        question_max_tokens: PositiveInt = 512,
        answer_temperature: Temperature = 0.0,
        answer_max_tokens: PositiveInt = 1024,
        top_k: NonNegativeInt = 20,
        min_mass: PositiveShare = 0.99,
        off_corpus: Corpus | ReadCorpus | None = None,
        off_corpus_share: Share = 0.0,
        tokens_per_batch: BatchTokens = 2048,
        num_shards: Count | None = None,
        validation: ReadPath | None = None,
        validation_groups: Count = 4,
        recording: WriteFolderName | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        if recorded and raw_corpus:
            raise SettingError("they exclude each other; set one", recorded=recorded, raw_corpus=True)
        if min_chunk_tokens > max_chunk_tokens:
            raise SettingError(
                "the shortest chunk is longer than the longest (the paper: 512, 4096)",
                min_chunk_tokens=min_chunk_tokens,
                max_chunk_tokens=max_chunk_tokens,
            )
        if off_corpus_share and off_corpus is None:
            raise SettingError("needs off_corpus; give other text, or 0", off_corpus_share=off_corpus_share)
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.off_corpus = open_corpus(off_corpus) if isinstance(off_corpus, str | Path) else off_corpus
        self.teacher = teacher or LocalTeacher()
        self.recorded, self.raw_corpus, self.window_tokens = recorded, raw_corpus, window_tokens
        self.chunker = TokenChunker(min_tokens=min_chunk_tokens, max_tokens=max_chunk_tokens)
        self.seed_prompts, self.system_template = seed_prompts, system_template
        self.enable_thinking, self.corpus_before_chunk = enable_thinking, corpus_before_chunk
        self.conversations_per_group, self.groups_per_round = conversations_per_group, groups_per_round
        self.uses, self.num_rounds = uses, num_rounds
        self.question = Sampling(question_temperature, question_max_tokens)
        self.answer = Sampling(answer_temperature, answer_max_tokens)
        self.top_k, self.min_mass, self.off_corpus_share = top_k, min_mass, off_corpus_share
        self.tokens_per_batch, self.num_shards, self.seed = tokens_per_batch, num_shards, seed
        self.validation, self.validation_groups = validation, validation_groups
        self.recording_folder = recording
        self.stream_state = StreamState({})
        self._dealt: int | None = None  # shards of the stream, once it is dealt
        self._stream: ExampleStream | None = None
        self._told = False

    def prepare(self, tokenizer: Any) -> None:
        """Read the corpus and set the renderer; needs a tokenizer, and no model."""
        self.renderer = ChatRenderer(
            tokenizer, system_template=self.system_template, enable_thinking=self.enable_thinking
        )
        with called("corpus", getattr(self.corpus, "path", "")):
            self.corpus_ids = self.corpus.token_ids(tokenizer)
        if not self._told:
            self._tell_proportions(len(self.corpus_ids))

    def _tell_proportions(self, corpus_tokens: int) -> None:
        """Once, however often the corpus is read."""
        self._told = True
        if self.raw_corpus:
            tell_long_windows(self.window_tokens, corpus_tokens=corpus_tokens)
        elif self.recorded is None:
            chunks = self.chunker
            tell_long_chunks(
                min_tokens=chunks.min_tokens, max_tokens=chunks.max_tokens, corpus_tokens=corpus_tokens
            )
        module = getattr(self.trainer, "lightning_module", None)
        if (num_tokens := getattr(module, "num_tokens", None)) is not None:
            tell_long_cartridge(num_tokens, corpus_tokens=corpus_tokens)

    def synthesizer(self, *, seed: int | None = None) -> Synthesizer:
        """Makes the conversations; `prepare` first, and the teacher must be bound before it is used."""
        off_corpus_ids = None
        if self.off_corpus:
            with called("off_corpus", getattr(self.off_corpus, "path", "")):
                off_corpus_ids = self.off_corpus.token_ids(self.renderer.tokenizer)
        return Synthesizer(
            corpus_ids=self.corpus_ids,
            chunker=self.chunker,
            renderer=self.renderer,
            teacher=self.teacher,
            seed_prompts=self.seed_prompts,
            seed=self.seed if seed is None else seed,
            conversations_per_group=self.conversations_per_group,
            num_rounds=self.num_rounds,
            question=self.question,
            answer=self.answer,
            top_k=self.top_k,
            min_mass=self.min_mass,
            off_corpus_ids=off_corpus_ids,
            off_corpus_share=self.off_corpus_share,
            corpus_sha256=self.corpus.sha256,
            corpus_before_chunk=self.corpus_before_chunk,
        )

    def setup(self, stage: str) -> None:
        """Read the corpus and check the settings against the model's config, before the model is loaded."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        self.prepare(module.tokenizer)
        self._source = self._example_source()
        if module.objective.needs_top_logprobs and (self.raw_corpus or self.top_k < 1):
            setting = "raw_corpus=true" if self.raw_corpus else f"top_k={self.top_k}"
            raise ValueError(
                f"objective {type(module.objective).__name__} needs the teacher's log-probabilities, which "
                f"{setting} does not give; choose the NextToken objective, or conversations with top_k of 20"
            )
        if self.validation is not None:
            self._recorded("validation", self.validation)
        synthesizer = getattr(self._source, "source", None)
        if isinstance(synthesizer, Synthesizer):
            again = module.objective.needs_teacher_hidden
            require_room(synthesizer, module.model_config, read_again=again)

    def bind_teacher(self, model: Any) -> None:
        """The student's module calls this once its frozen model is loaded."""
        self.teacher.bind(model, self.renderer.tokenizer)

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """The stream from where it stands; batches come packed, so the loader only passes them on."""
        trainer: Any = self.trainer
        self._end_stream()
        num_shards = self._dealt = self._stream_shards(trainer.world_size)
        self._stream = ExampleStream(
            self._source,
            tokens_per_batch=self.tokens_per_batch,
            groups_per_round=self.groups_per_round,
            uses=self.uses,
            seed=self.seed,
            num_shards=num_shards,
            shards=tuple(range(trainer.global_rank, num_shards, trainer.world_size)),
            batches_per_step=trainer.accumulate_grad_batches,
            start=lambda: self.stream_state,
            skip=self._overfitted,
            threaded=not self.teacher.runs_model,
            in_step=partial(in_step, trainer.strategy),
        )
        return DataLoader(self._stream, batch_size=None, num_workers=0)

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _overfitted(self) -> int:
        """With ``overfit_batches``, whose epochs all begin at one place: batches of this epoch that a checkpoint has used."""
        trainer: Any = self.trainer
        return int(
            trainer.overfit_batches
            and trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.overfit_batches
        )

    def _stream_shards(self, processes: int) -> int:
        """As many as a checkpoint has, else as are set, else one per process."""
        held = self._dealt or len(self.stream_state.places)
        num_shards = held or self.num_shards or processes
        if self.num_shards not in (None, num_shards):
            raise ValueError(
                f"num_shards={self.num_shards}, and the checkpoint's stream was dealt into {held}; leave it out, or "
                f"set {held}"
            )
        if num_shards % processes:
            raise ValueError(
                f"num_shards={num_shards} must be a multiple of the {processes} processes that share the stream"
                + (f"; this checkpoint goes on with as many as divide {held}" if held else "")
                + ". For a run that may change their number, set num_shards to a multiple of all that it may have"
            )
        return num_shards

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        """Held-out conversations, the same ones at every call."""
        source = self._validation_source()
        with in_step(self.trainer.strategy):  # type: ignore[union-attr]
            examples = [e for group in range(self.validation_groups) for e in source.examples(group)]
        return DataLoader(packed(examples, self.tokens_per_batch), batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[PackedBatch]:
        """See `val_dataloader`."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[PackedBatch]:
        """See `val_dataloader`."""
        return self.val_dataloader()

    def run_settings(self) -> dict[str, Any]:
        """See `lit_cartridges.runs.run_settings`. An attribute of another name than the argument's is told here."""
        files = conversation_files(Path(self.recorded)) if self.recorded is not None else ()
        return constructed(
            self,
            "data",
            corpus=_text_identity(self.corpus),
            off_corpus=_text_identity(self.off_corpus),
            recorded=files_identity(files, str(self.recorded)) if files else None,
            seed_prompts=_wordings(self.seed_prompts),
            min_chunk_tokens=self.chunker.min_tokens,
            max_chunk_tokens=self.chunker.max_tokens,
            question_temperature=self.question.temperature,
            question_max_tokens=self.question.max_new_tokens,
            answer_temperature=self.answer.temperature,
            answer_max_tokens=self.answer.max_new_tokens,
            recording=self.recording_folder,
            num_shards=self._dealt or self.num_shards,
        )

    def batch_used(self, batch: PackedBatch) -> None:
        """The module calls this after each batch; the stream's state follows what was trained, not what was fetched."""
        trainer: Any = self.trainer
        if batch.stream_state is not None and not (trainer and trainer.overfit_batches):
            self.stream_state = batch.stream_state

    def state_dict(self) -> dict[str, Any]:
        """Where every shard stands, gathered from all processes (so all must call it)."""
        places = dict(self.stream_state.places)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, places)
            places = {shard: place for part in gathered for shard, place in part.items()}
        return StreamState(places, self.stream_state.turn).state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stood."""
        self.stream_state = StreamState.from_state_dict(state_dict)
        self._dealt = None

    def on_exception(self, exception: BaseException) -> None:
        """Say so where the error is that another process is gone; here, since every strategy comes by."""
        try:
            explain_lost_process(exception, self.trainer)
        finally:
            self._end_stream()

    def teardown(self, stage: str) -> None:
        """Give back the teacher's connections and memory."""
        self._end_stream()
        self.teacher.close()

    @property
    def _vocab_size(self) -> int:
        """Token ids that the model has; more than the tokenizer's where its embedding is padded."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        return int(module.model_config.get_text_config().vocab_size)

    def _example_source(self) -> ExampleSource:
        if self.raw_corpus:
            return CorpusExamples(self.corpus_ids, window_tokens=self.window_tokens, seed=self.seed)
        if self.recorded is not None:
            return self._conversation_examples(self._recorded("recorded", self.recorded))
        folder = self.recording_folder or str(Path(self.trainer.default_root_dir) / "recording")  # type: ignore[union-attr]
        synthesizer = self.synthesizer()
        if self.trainer.fast_dev_run:  # type: ignore[union-attr]
            return self._conversation_examples(synthesizer)  # which writes nothing
        recording = Recording(
            folder,
            tokenizer=self.renderer.tokenizer,
            settings=synthesizer.settings,
            vocab_size=self._vocab_size,
        )
        return self._conversation_examples(synthesizer, recording)

    def _validation_source(self) -> ExampleSource:
        if self.raw_corpus:
            return CorpusExamples(
                self.corpus_ids, window_tokens=self.window_tokens, seed=self.seed + _VALIDATION_SEED
            )
        if self.validation is not None:
            return self._conversation_examples(self._recorded("validation", self.validation))
        return self._conversation_examples(self.synthesizer(seed=self.seed + _VALIDATION_SEED))

    def _recorded(self, name: str, path: str | Path) -> RecordedConversations:
        """The recording of the setting ``name``, read now, so that a bad file fails before the model is loaded."""
        with called(name, path):
            recorded = RecordedConversations(
                path, tokenizer=self.renderer.tokenizer, vocab_size=self._vocab_size
            )
        try:
            recorded.groups  # noqa: B018
        except (RecordingError, ConversationError) as error:
            raise RecordingError(f"{name}={str(path)!r}: {error}") from error
        return recorded

    def _conversation_examples(
        self, source: ConversationSource, recording: Recording | None = None
    ) -> ConversationExamples:
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        objective = module.objective
        context_of = self._context_ids if objective.needs_teacher_hidden else None
        return ConversationExamples(
            source,
            self.renderer,
            recording=recording,
            top_k=self.top_k,
            needs_top_logprobs=objective.needs_top_logprobs,
            context_of=context_of,
        )

    def _context_ids(self, conversation: Conversation) -> list[int]:
        """What the teacher read in front: nothing off the corpus, the chunk's tokens, or a foreign system prompt."""
        known = conversation.metadata
        if conversation.type == "off_corpus":
            return []
        if known.get("corpus_before_chunk"):
            raise ValueError(READ_AGAIN_ERROR)
        if known.get("corpus_sha256") == self.corpus.sha256 and "chunk_start_token" in known:
            start = int(known["chunk_start_token"])
            return self.renderer.context_ids(self.corpus_ids[start : start + int(known["chunk_num_tokens"])])
        ids = text_ids(self.renderer.tokenizer, conversation.system_prompt)
        return self.renderer.context_ids(ids)


def _text_identity(corpus: Corpus | None) -> dict[str, str] | None:
    return None if corpus is None else identity(corpus.sha256, str(corpus.path))


def _wordings(seed_prompts: str | dict[str, list[str]]) -> Any:
    """As pairs, since the order of kinds decides which of them a number draws."""
    try:
        return [*resolve_seed_prompts(seed_prompts).items()]
    except SeedPromptError:  # of no use to this run, or `setup` refuses them
        return seed_prompts
