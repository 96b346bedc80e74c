"""How a cartridge is trained and scored: optimizer, steps, a batch's share of a step, and what is logged of them.

Every process runs the same collective operations in every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_cartridges.conversations.material import Material
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.module.answers_of_step import AnswersOfStep
from lit_cartridges.module.checkpointed import Checkpointed
from lit_cartridges.module.finite_losses import FiniteLosses
from lit_cartridges.module.optimizers import OwnOptimizer, adam
from lit_cartridges.module.training_graphs import TrainingGraphs
from lit_cartridges.runs.precision import require_fp32
from lit_cartridges.runs.run_progress import Schedule, optimizer_steps, warm_up_and_cosine
from lit_cartridges.runs.run_settings import hyper_parameters


class TrainingSteps(Checkpointed):
    """A module that trains its cartridge, and scores it, by its own `losses`."""

    num_tokens: int
    learning_rate: float
    betas: tuple[float, float]
    warmup_steps: int
    final_lr_share: float
    material: Material | None
    cuda_graphs: bool

    def __init__(self) -> None:
        super().__init__()
        self.finite_losses = FiniteLosses()
        self._step = AnswersOfStep()
        self._graphs: TrainingGraphs | None = None
        self._own_optimizer: OwnOptimizer | None = None

    def configure_optimizers(self) -> Any:
        """Adam on the cartridge, linear warm-up, then a cosine, counted in optimizer steps; or what `use_optimizer` was told."""
        assert self.cartridge is not None
        require_fp32(self.cartridge)  # a plugin or a caller may have converted it
        own = self._own_optimizer or OwnOptimizer()
        if own.optimizer is not None:
            optimizer = own.optimizer(self.cartridge.parameters())
            if own.lr_scheduler is None:
                return optimizer
        else:
            optimizer = adam(self, self.trainer.strategy)
        if own.lr_scheduler is not None:
            schedule = own.lr_scheduler(optimizer)
        else:
            steps = optimizer_steps(self.trainer)
            schedule = warm_up_and_cosine(optimizer, steps, self.warmup_steps, self.final_lr_share)
        return {"optimizer": optimizer, "lr_scheduler": own.scheduled(schedule, self.trainer)}

    def on_train_start(self) -> None:
        """Keep what this run is made with, for its checkpoints, and tell the loggers."""
        self.resumption.begin(self.trainer)
        self.finite_losses = FiniteLosses()
        self._graphs = TrainingGraphs(self) if self.cuda_graphs else None
        for one in self.trainer.lr_scheduler_configs:
            if isinstance(one.scheduler, Schedule):  # LearningRateFinder may have changed it
                one.scheduler.set_base([self.learning_rate for _ in one.scheduler.base_lrs])
        if self.trainer.enable_autolog_hparams and self.trainer.is_global_zero:
            told = hyper_parameters(
                self.resumption.settings(self.trainer),
                num_tokens=self.num_tokens,
                corpus_tokens=None if self.material is None else len(self.material.corpus_ids),
            )
            for logger in self.trainer.loggers:
                logger.log_hyperparams(told)
                logger.save()  # now, not with the first figures: a run may be looked at before, or die

    def losses(self, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the objective over the batch's answer tokens, and per token [answers] objective and NLL, in nats."""
        raise NotImplementedError

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """Loss of one micro-batch, weighted so that a step averages over all its answer tokens on all processes."""
        self._step.take(batch, self.trainer.accumulate_grad_batches)
        loss, token_losses, nll = self._weighted(batch)
        labels = ", ".join(sorted(set(batch.labels)))
        self.finite_losses.take(
            loss,
            f"batch {batch_idx} (optimizer step {self.global_step}; {len(batch.lengths)} conversations: {labels})",
        )
        if self._logs_this_step():
            self._log_losses(batch, token_losses, nll)
        # Before the callbacks of this batch, so that a checkpoint they save does not repeat it.
        batch.used()
        return loss

    def _weighted(self, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """As `losses`, the sum being the batch's share of its step; by a graph, where there is one."""
        if self._graphs is not None:
            given = self._graphs.losses(batch, self._weight(batch.window_answers, None))
            if given is not None:
                return given
        total, token_losses, nll = self.losses(batch)
        return total * self._weight(batch.window_answers, total), token_losses, nll

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the cartridge's gradient, before clipping."""
        if (
            not self.trainer.strategy.handles_gradient_accumulation
        ):  # else this is called for every micro-batch
            self._step.end()
        if self._logs_this_step():
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            if grads:  # a strategy that shards them logs their norm itself
                self.log("train/grad_norm", torch.nn.utils.get_total_norm(grads))

    def on_train_end(self) -> None:
        """The last loss is looked at too."""
        self.finite_losses.require()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing is saved behind a loss that is not finite."""
        self.finite_losses.require()
        super().on_save_checkpoint(checkpoint)

    def _logs_this_step(self) -> bool:
        trainer: Any = self.trainer
        return (self.global_step + 1) % max(1, trainer.log_every_n_steps) == 0

    def _log_losses(self, batch: PackedBatch, token_losses: Tensor, nll: Tensor) -> None:
        """Loss in nats per answer token, in all and by seed prompt, and the perplexity of the teacher's answers."""
        self.log("train/loss", token_losses.mean(), prog_bar=True, batch_size=1)
        self.log("train/perplexity", nll.mean().exp(), prog_bar=True, batch_size=1)
        for label in sorted(set(batch.labels)):
            rows = [row for row, name in enumerate(batch.labels) if name == label]
            own = torch.isin(batch.label_rows, torch.tensor(rows, device=self.device))
            self.log(f"train/loss/{label}", token_losses[own].mean(), batch_size=1)

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """Loss and the teacher's tokens' NLL, in nats per answer token, on held-out conversations."""
        self._score(batch, "val")

    def test_step(self, batch: PackedBatch, batch_idx: int) -> None:
        """The same under ``test/``."""
        self._score(batch, "test")

    def _score(self, batch: PackedBatch, stage: str) -> None:
        _, token_losses, nll = self.losses(batch)
        answers = len(token_losses)
        self.log(f"{stage}/loss", token_losses.mean(), batch_size=answers, sync_dist=True)
        self.log(f"{stage}/answer_nll", nll.mean(), batch_size=answers, sync_dist=True)

    def predict_step(self, batch: PackedBatch, batch_idx: int) -> dict[str, Any]:
        """Per answer token the objective and the NLL, in nats, with each conversation's label."""
        _, token_losses, nll = self.losses(batch)
        labels = [batch.labels[row] for row in batch.label_rows.tolist()]
        return {"token_losses": token_losses.cpu(), "nll": nll.cpu(), "labels": labels}

    def _weight(self, answers: int, total: Tensor | None) -> Any:
        """What makes the ``total`` of a micro-batch its share of a step; ``answers`` of the step are this process's."""
        micro_batches = self.trainer.accumulate_grad_batches * self.trainer.world_size
        if self.trainer.world_size == 1 or total is None:
            return micro_batches / answers
        # All processes' answers stay on the device, which is not waited for. In fp64, so that the weight is rounded once.
        counts: Any = self.all_gather(torch.full((), answers, dtype=torch.float64, device=total.device))
        return (micro_batches / counts.sum()).to(total.dtype)
