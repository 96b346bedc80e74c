"""Streams training examples about a corpus into training, generated on the fly (arXiv 2506.06266, §4.1).

Data flow: `connect` gives the module the corpus as its student reads it (`Material`), and the source what the student needs
→ `Source` makes or reads examples → `ExampleStream` packs them → trainer; each batch says when it was used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.conversations.student import Student
from lit_cartridges.corpora.open_corpus import Corpus, open_corpus
from lit_cartridges.data.batch import PackedBatch, packed
from lit_cartridges.data.off_corpus import DEFAULT_FRACTION, OffCorpus, OffCorpusMix
from lit_cartridges.data.sources import SelfStudy, Source
from lit_cartridges.data.sources.example_source import ExampleSource
from lit_cartridges.data.sources.proportions import tell_long_cartridge
from lit_cartridges.data.sources.recorded import recorded_examples
from lit_cartridges.data.stream import ExampleStream, RoundNews, StreamState
from lit_cartridges.errors import SettingError, called
from lit_cartridges.runs.moved_settings import refuses_moved
from lit_cartridges.runs.run_settings import class_name, constructed, text_identity
from lit_cartridges.settings import (
    BatchTokens,
    ChunkTemplate,
    Count,
    Fraction,
    ReadCorpus,
    ReadPath,
    Seed,
    checked,
)
from lit_cartridges.strategies.frozen_models import in_step
from lit_cartridges.strategies.lost_process import explain_lost_process

# Added to the seed for conversations that are not trained on.
_VALIDATION_SEED = 1_000_003


class SelfStudyDataModule(L.LightningDataModule):
    """Examples about a corpus, an endless stream of packed batches.

    Args:
        corpus: the documents to store: the path of a file or a folder (docs/corpora.md), or a reader.
        source: where the examples come from: SelfStudy, Recorded or RawCorpus.
        system_template: the system message in which the teacher sees ``{chunk}``.
        enable_thinking: let models that can think do so.
        groups_per_round: groups mixed with each other in one round.
        uses: times that each example is trained on.
        off_corpus: conversations about anything, which the model answers without cartridge and without corpus, and which teach
            the cartridge to leave alone what is not in its corpus: a chat data set (.jsonl, .json, .parquet), whose users'
            first messages are asked, or "general", or other seed prompts, by which the model writes the messages itself.
        off_corpus_fraction: their fraction of the supervised tokens, 0 to below 1; 0.05 by default.
        tokens_per_batch: the most tokens of a packed micro-batch.
        num_shards: shards of the stream; by default one per process. Keep it when resuming on other machines.
        validation: a recording to validate on; by default fresh examples of another seed, where the source has any.
        validation_groups: groups of them that ``validate`` and ``test`` score.
        seed: decides chunks, seed prompts, sampling and order.

    Attributes:
        student, material: what `connect` was given, and what it gave.
    """

    endless = True  # an epoch is a stretch of the stream

    @refuses_moved("data")
    @checked
    def __init__(
        self,
        *,
        corpus: Corpus | ReadCorpus,
        source: Source | None = None,
        system_template: ChunkTemplate = "{chunk}",
        enable_thinking: bool = False,
        groups_per_round: Count = 4,
        uses: Count = 1,
        off_corpus: str | None = None,
        off_corpus_fraction: Fraction | None = None,
        tokens_per_batch: BatchTokens = 2048,
        num_shards: Count | None = None,
        validation: ReadPath | None = None,
        validation_groups: Count = 4,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        self.source = source or SelfStudy()
        self.system_template, self.enable_thinking = system_template, enable_thinking
        self.groups_per_round, self.uses, self.seed = groups_per_round, uses, seed
        self.tokens_per_batch, self.num_shards = tokens_per_batch, num_shards
        if off_corpus is None and off_corpus_fraction is not None:
            raise SettingError(
                "needs off_corpus: a chat data set, or general", off_corpus_fraction=off_corpus_fraction
            )
        if off_corpus is not None and off_corpus_fraction is None:
            off_corpus_fraction = DEFAULT_FRACTION
        self.off_corpus_fraction = off_corpus_fraction or 0.0
        self.off_corpus = (
            OffCorpus(name=off_corpus, fraction=self.off_corpus_fraction) if off_corpus else None
        )
        self.validation, self.validation_groups = validation, validation_groups
        self.student: Student | None = None
        self.material: Material | None = None
        self.stream_state = StreamState({})
        self._dealt: int | None = None  # shards of the stream, once it is dealt
        self._stream: ExampleStream | None = None
        self._mix: OffCorpusMix | None = None
        self.on_group: Callable[[RoundNews], None] | None = None  # told how the making of conversations goes
        self._told = False

    def connect(self, student: Student) -> Material:
        """Read the corpus as ``student`` reads it, and check all settings against it; no model is needed.

        `LitCartridge.connect` calls this, and a trainer that gets both calls that.

        Raises:
            ValueError: a setting cannot work with this student; the message names it.
        """
        renderer = ChatRenderer(
            student.tokenizer, system_template=self.system_template, enable_thinking=self.enable_thinking
        )
        with called("corpus", getattr(self.corpus, "path", "")):
            corpus_ids = self.corpus.token_ids(student.tokenizer)
        self.student = student
        self.material = Material(
            renderer=renderer,
            corpus_ids=corpus_ids,
            corpus_sha256=self.corpus.sha256,
            corpus_name=self.corpus.shown_name,
            conversations=self.source.conversations,
        )
        if student.num_tokens is not None and not self._told:
            self._told = True
            tell_long_cartridge(student.num_tokens, corpus_tokens=len(corpus_ids))
        self.source.connect(student, self.material)
        if self.off_corpus:
            self.off_corpus.connect(
                student, self.material, self.source, tokens_per_batch=self.tokens_per_batch
            )
        self._held_out = self._recorded_validation()
        return self.material

    def _recorded_validation(self) -> ExampleSource | None:
        """Read now, so that a bad file fails before the model is loaded."""
        if self.validation is None:
            return None
        assert self.student is not None and self.material is not None
        return recorded_examples(
            "validation", self.validation, self.student, self.material, top_k=self.source.top_k
        )

    def bind_teacher(self, model: PreTrainedModel) -> None:
        """The student's module calls this once its frozen model is loaded."""
        self.source.bind_teacher(model)
        if self.off_corpus:
            self.off_corpus.bind_teacher(model)

    def setup(self, stage: str) -> None:
        """Connect to the trainer's module, before it loads its model, and open the run's recording."""
        trainer: Any = self.trainer
        module, stage = trainer.lightning_module, str(getattr(stage, "value", stage))
        if hasattr(module, "connect") and (self.material is None or module.material is not self.material):
            module.connect(self)
        if self.student is None:
            raise SettingError(
                f"{type(module).__name__} says nothing of its student; call data.connect(Student(…)) first"
            )
        if stage != "fit" and self.validation is None and not self.source.keeps_back:
            raise SettingError(
                f"data.source={type(self.source).__name__} keeps nothing back to {stage} on; give a recording",
                {"data.validation": None},
            )
        self.source.check_strategy(trainer.strategy)
        root = None if trainer.fast_dev_run else Path(trainer.default_root_dir)  # a try writes nothing
        self._examples = self.source.examples(seed=self.seed, root=root)
        self._mix = self.off_corpus.mix(seed=self.seed, root=root) if self.off_corpus else None

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """The stream from where it stands; batches come packed, so the loader only passes them on."""
        trainer: Any = self.trainer
        self._end_stream()
        num_shards = self._dealt = self._stream_shards(trainer.world_size)
        self._stream = ExampleStream(
            self._examples,
            tokens_per_batch=self.tokens_per_batch,
            groups_per_round=self.groups_per_round,
            uses=self.uses,
            seed=self.seed,
            num_shards=num_shards,
            shards=tuple(range(trainer.global_rank, num_shards, trainer.world_size)),
            batches_per_step=trainer.accumulate_grad_batches,
            start=lambda: self.stream_state,
            on_used=self._batch_used,
            skip=self._overfitted,
            threaded=self.source.threaded,
            beside=self.source.beside,
            in_step=partial(in_step, trainer.strategy),
            on_group=self.on_group,
            off_corpus=self._mix,
        )
        return DataLoader(self._stream, batch_size=None, num_workers=0)

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _batch_used(self, state: StreamState) -> None:
        """The stream's state follows what was trained, not what was fetched."""
        trainer: Any = self.trainer
        if not trainer.overfit_batches:  # whose epochs all begin at one place
            self.stream_state = state

    def _overfitted(self) -> int:
        """With ``overfit_batches``: batches of this epoch that a checkpoint has used."""
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

    def val_dataloader(self) -> DataLoader[PackedBatch] | list[Any]:
        """Held-out examples, the same ones at every call; none where the source keeps none back."""
        if self._held_out is None and not self.source.keeps_back:
            return []
        source = self._held_out or self.source.examples(seed=self.seed + _VALIDATION_SEED)
        with in_step(self.trainer.strategy):  # type: ignore[union-attr]
            examples = [e for group in range(self.validation_groups) for e in source.examples(group)]
        return DataLoader(packed(examples, self.tokens_per_batch), batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[PackedBatch] | list[Any]:
        """See `val_dataloader`."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[PackedBatch] | list[Any]:
        """See `val_dataloader`."""
        return self.val_dataloader()

    def run_settings(self) -> dict[str, Any]:
        """See `lit_cartridges.runs.run_settings`. An attribute of another name than the argument's is told here."""
        kind = type(self.source)
        return {
            **constructed(
                self,
                "data",
                corpus=text_identity(self.corpus),
                source=class_name(f"{kind.__module__}.{kind.__qualname__}"),
                num_shards=self._dealt or self.num_shards,
                off_corpus=self.off_corpus.identity() if self.off_corpus else None,
            ),
            **self.source.run_settings(),
        }

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
            self.source.close()  # first, so that the round which a thread may be making ends here
            self._end_stream()

    def teardown(self, stage: str) -> None:
        """Give back the teacher's connections and memory, once no process asks it any more: they may share an engine."""
        self._end_stream()
        if self.trainer is not None:
            self.trainer.strategy.barrier("teacher")
        self.source.close()
        if self.off_corpus:
            self.off_corpus.close()
