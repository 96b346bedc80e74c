"""Training the pocket model from scratch.

`python -m pocket_lab.pretrain fit --config recipes/pocket_pretrain.yaml`
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from lit_cartridges.pocket.tokenizer import build_tokenizer, ids, words
from pocket_lab.initialization import initialize_lookup
from pocket_lab.pretrain_data import Batch
from pocket_lab.rows import ANSWER, ASKED, DRILL, SILENT, TEXT, VALUE

# What must be looked up counts most; the rest of an answer and the text are learnt beside it.
_WEIGHTS = {SILENT: 0.0, TEXT: 0.05, ANSWER: 0.3, VALUE: 1.0, ASKED: 1.0, DRILL: 1.0}


def build_config(
    hidden_size: int, num_layers: int, num_heads: int, mlp_size: int, max_positions: int, rope_theta: float
) -> LlamaConfig:
    """A Llama of the pocket language, multi-head attention."""
    return LlamaConfig(
        vocab_size=-(-len(words()) // 16) * 16,
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=False,
        attention_bias=True,
        bos_token_id=ids()["<bos>"],
        eos_token_id=ids()["<end>"],
        pad_token_id=ids()["<pad>"],
    )


class PocketPretraining(L.LightningModule):
    """A small Llama that learns to read.

    Args:
        hidden_size, num_layers, num_heads, mlp_size, max_positions, rope_theta: the model's shape.
        learning_rate: AdamW's highest; it is held for a third of `trainer.max_steps` and then falls linearly to 2%.
        warmup_steps: optimizer steps of linear warm-up.
        look_back_to, embedding_std, output_std: see `initialize_lookup`.
        export_dir: folder that gets the model, in transformers' format, every `export_minutes` and at the end.
    """

    def __init__(
        self,
        hidden_size: int = 192,
        num_layers: int = 2,
        num_heads: int = 6,
        mlp_size: int = 384,
        max_positions: int = 4096,
        rope_theta: float = 1e6,
        learning_rate: float = 1e-3,
        warmup_steps: int = 50,
        look_back_to: list[int] = [1, 2, 3, 4],  # noqa: B006 (the command line wants a plain default)
        embedding_std: float = 0.1,
        output_std: float = 0.1,
        export_dir: str = "runs/pocket_pretrain/model",
        export_minutes: float = 3.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        config = build_config(hidden_size, num_layers, num_heads, mlp_size, max_positions, rope_theta)
        self.model = LlamaForCausalLM(config)
        initialize_lookup(self.model, look_back_to, embedding_std, output_std)
        self._exported = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Weighted next-token loss; only tokens with a weight reach the vocabulary."""
        # the mask of ones says that a jump in the positions is no border between packed sequences
        hidden = self.model.model(
            batch["ids"], torch.ones_like(batch["ids"]), batch["positions"], use_cache=False
        ).last_hidden_state
        roles, targets = batch["roles"][:, 1:], batch["ids"][:, 1:]
        kept = roles != SILENT
        roles, targets = roles[kept], targets[kept]
        logits = self.model.lm_head(hidden[:, :-1][kept]).float()
        losses = F.cross_entropy(logits, targets, reduction="none")
        weights = torch.tensor([_WEIGHTS[role] for role in range(len(_WEIGHTS))])[roles]
        self._observe(logits.detach(), losses.detach(), roles, targets)
        return (losses * weights).sum() / weights.sum().clamp(min=1)

    def _observe(
        self, logits: torch.Tensor, losses: torch.Tensor, roles: torch.Tensor, targets: torch.Tensor
    ) -> None:
        """Logs accuracies and losses by role, and tells the curriculum."""
        found: dict[int, float | None] = {VALUE: None, DRILL: None}
        right = logits.argmax(-1) == targets
        for role, name in (
            (VALUE, "value"),
            (DRILL, "drill"),
            (ASKED, "asked"),
            (ANSWER, "answer"),
            (TEXT, "text"),
        ):
            chosen = roles == role
            counts = self.trainer.strategy.reduce(
                torch.stack([right[chosen].sum(), chosen.sum()]), reduce_op="sum"
            )
            if counts[1]:
                found[role] = (counts[0] / counts[1]).item()
                self.log(f"{name}_accuracy", counts[0] / counts[1], prog_bar=role in (VALUE, DRILL))
            if chosen.any():
                self.log(f"{name}_loss", losses[chosen].mean())
        trainer: Any = self.trainer
        now = trainer.datamodule.curriculum
        now.observe(found[DRILL], found[VALUE])
        for name in ("num_pairs", "pool", "num_tokens"):
            self.log(name, float(getattr(now, name)))

    def configure_optimizers(self) -> Any:
        """AdamW without decay on all weights, and its schedule."""
        at: Any = self.hparams
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=at.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _rate(self, step: int) -> float:
        at: Any = self.hparams
        left = 1 - step / self.trainer.max_steps
        return min(1.0, (step + 1) / at.warmup_steps, max(0.02, 1.5 * left))

    def on_train_batch_end(self, *_: Any) -> None:
        """Exports now and then."""
        at: Any = self.hparams
        if time.monotonic() - self._exported > 60 * at.export_minutes:
            self.export()

    def on_train_end(self) -> None:
        """Exports the trained model."""
        self.export()

    def export(self) -> None:
        """Writes model and tokenizer in transformers' format."""
        self._exported = time.monotonic()
        if not self.trainer.is_global_zero:
            return
        at: Any = self.hparams
        folder = Path(at.export_dir)
        self.model.save_pretrained(folder)
        build_tokenizer(self.model.config.max_position_embeddings).save_pretrained(folder)


def main(args: list[str] | None = None) -> None:
    """The command line of the pocket model's training."""
    from lightning.pytorch.cli import LightningCLI

    LightningCLI(args=args)


if __name__ == "__main__":
    main()
