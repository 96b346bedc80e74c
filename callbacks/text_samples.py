"""What the student reads, and what it says: texts in the loggers, beside the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng

from lit_cartridges.cartridge_files.model_card import markdown_text
from lit_cartridges.conversations.renderer import ChatRenderer, user
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.errors import SettingError
from lit_cartridges.evals.systems.system import require_room
from lit_cartridges.settings import NonNegativeInt, PositiveInt, checked
from lit_cartridges.strategies.frozen_models import in_step
from lit_cartridges.terminal import printable

_MOST_QUESTIONS = 5


class TextSamples(L.Callback):
    """Logs conversations that are trained on, and replies to questions of your own, as texts.

    Conversations at the first step and every ``every_n_steps``, as the student reads them behind its cartridge; greedy replies
    before the first step, every ``every_n_steps``, and after the last. TensorBoard shows them under Text
    (``samples/conversations``, ``samples/replies``), wandb as tables; other loggers take no texts, and nothing is made for them.
    The commands have one of these unless a recipe brings its own.

    Args:
        questions: up to five, about the corpus.
        num_conversations: of each look at a batch.
        every_n_steps: optimizer steps between looks.
        max_new_tokens: length at which a reply is cut.
    """

    @checked
    def __init__(
        self,
        *,
        questions: Sequence[str] = (),
        num_conversations: NonNegativeInt = 3,
        every_n_steps: PositiveInt = 100,
        max_new_tokens: PositiveInt = 128,
    ) -> None:
        if isinstance(questions, str) or len(questions) > _MOST_QUESTIONS:
            raise SettingError(f"must be a list of at most {_MOST_QUESTIONS} questions", questions=questions)
        self.questions, self.num_conversations = list(questions), num_conversations
        self.every_n_steps, self.max_new_tokens = every_n_steps, max_new_tokens
        self._seen_step = self._replied_step = -1

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """See that the questions fit, before the model is loaded.

        Raises:
            ContextTooLong: one does not, behind the cartridge.
        """
        if stage == "fit" and self.questions:
            renderer = _renderer(pl_module)
            longest = max(len(renderer.prompt_ids([user(question)])) for question in self.questions)
            needed = longest + self.max_new_tokens
            require_room(pl_module.model_config, "TextSamples", pl_module.num_tokens, needed)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """What the cartridge says before this training."""
        self._seen_step = -1
        self._log_replies(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        """Look at the batch of a first step, and of one that is due."""
        first, step = self._seen_step < 0, trainer.global_step
        if step == self._seen_step:
            return
        self._seen_step = step
        due = step > 0 and step % self.every_n_steps == 0
        if first or due:
            self._log_conversations(trainer, pl_module, batch)
        if due:
            self._log_replies(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """What it says in the end."""
        if self._replied_step != trainer.global_step:
            self._log_replies(trainer, pl_module)

    def _log_conversations(self, trainer: L.Trainer, pl_module: Any, batch: PackedBatch) -> None:
        if not trainer.is_global_zero or not self.num_conversations:
            return
        tokenizer, ids = pl_module.tokenizer, batch.input_ids[0].split(list(batch.lengths))
        rows = [
            [label, str(tokenizer.decode(own.tolist()))]
            for label, own in zip(batch.labels, ids[: self.num_conversations], strict=False)
        ]
        _log_texts(trainer, "samples/conversations", ["kind", "conversation"], rows)

    def _log_replies(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._replied_step = trainer.global_step
        if not self.questions or not any(_takes_texts(logger) for logger in trainer.loggers):
            return
        with in_step(trainer.strategy), isolate_rng(), torch.no_grad():
            if not trainer.is_global_zero:
                return
            attached = pl_module.cartridge.attach(pl_module.student, pl_module.tokenizer)
            attached.renderer = _renderer(pl_module)
            rows = [
                [question, attached.chat(question, max_new_tokens=self.max_new_tokens)]
                for question in self.questions
            ]
        _log_texts(trainer, "samples/replies", ["question", "reply"], rows)


def _renderer(pl_module: Any) -> ChatRenderer:
    """The run's, with its settings of the template, where the module knows it."""
    material = getattr(pl_module, "material", None)
    return ChatRenderer(pl_module.tokenizer) if material is None else material.renderer


def _takes_texts(logger: Any) -> bool:
    return isinstance(logger, TensorBoardLogger) or hasattr(logger, "log_text")


def _log_texts(trainer: L.Trainer, name: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table for loggers that have tables, such as wandb's, and Markdown for TensorBoard."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            texts = [f"**{markdown_text(head)}**  \n{_lines(text)}" for head, text in rows]
            logger.experiment.add_text(name, "\n\n---\n\n".join(texts), step)
        elif _takes_texts(logger):
            shown = [[printable(cell) for cell in row] for row in rows]
            logger.log_text(key=name, columns=columns, data=shown, step=step)  # type: ignore[attr-defined]


def _lines(text: str) -> str:
    return "  \n".join(map(markdown_text, text.splitlines()))
