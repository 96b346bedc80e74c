"""Batches without end for the pocket model's training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, IterableDataset

from lit_cartridges.pocket.pocket_text import PocketText
from lit_cartridges.pocket.vocabulary import VALUES
from lit_cartridges.pocket.world import World
from pocket_lab.curriculum import Curriculum
from pocket_lab.drills import drill
from pocket_lab.rows import Row, conversation_row

Batch = dict[str, torch.Tensor]
"""`ids`, `roles`, `positions`: each int64 [rows, tokens]."""


class PretrainStream(IterableDataset):
    """Batches decided by (seed, index) and by where the curriculum stands."""

    def __init__(self, data: PocketPretrainData):
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.data.index += 1
            yield self.data.batch(self.data.index)


class PocketPretrainData(L.LightningDataModule):
    """Rows of one corpus and many turns, and drills, made while training runs.

    Args:
        seed: decides all batches, with the curriculum's standing.
        tokens_per_batch: rows times tokens, of all ranks together; half as many while texts are short,
            when the number of steps matters more than their size.
        turn_tokens: most tokens of a row that go to its turns, beside its corpus.
        seeded: share of turns that give a seed prompt.
        gap: share of rows whose turns start at a position anywhere in the model's range.
        few_attributes: share of texts that state one or two attributes only, so that many names share each.
        max_positions: positions of the model.
    """

    def __init__(
        self,
        seed: int = 0,
        tokens_per_batch: int = 5120,
        turn_tokens: int = 640,
        seeded: float = 0.4,
        gap: float = 0.15,
        few_attributes: float = 0.1,
        max_positions: int = 4096,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.seed, self.tokens_per_batch, self.turn_tokens = seed, tokens_per_batch, turn_tokens
        self.seeded, self.gap, self.max_positions = seeded, gap, max_positions
        self.few_attributes = few_attributes
        self.curriculum = Curriculum()
        self.index = 0

    def batch(self, index: int) -> Batch:
        """This rank's share of the `index`-th batch at the curriculum's present standing; all ranks get like shapes."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shared, rng = random.Random(f"{self.seed} {index}"), random.Random(f"{self.seed} {index} {rank}")
        now = self.curriculum
        tokens = self.tokens_per_batch // (ranks if now.num_tokens > 128 else 2 * ranks)
        if shared.random() < now.drill_share:
            width = 16 + 24 * now.num_pairs
            return stack([drill(width, now.num_pairs, now.pool, rng) for _ in range(max(1, tokens // width))])
        # every second batch is of any shorter length, each order of magnitude as likely as another
        longest = (
            now.num_tokens if shared.random() < 0.5 else round(64 * (now.num_tokens / 64) ** shared.random())
        )
        width = longest + min(self.turn_tokens, max(128, longest))
        return stack([self._row(longest, width, rng) for _ in range(max(1, round(tokens / width)))])

    def _row(self, longest: int, width: int, rng: random.Random) -> Row:
        num_tokens = rng.randint(max(48, longest // 2), longest)
        few = (
            tuple(rng.sample(list(VALUES), rng.randint(1, 2))) if rng.random() < self.few_attributes else None
        )
        world = World(rng.getrandbits(48), attributes=few)
        start, end = rng.choice([(0, 0), (rng.randint(0, 12), 0), (rng.randint(0, 12), rng.randint(0, 12))])
        whole = world.corpus(num_tokens + start + end)
        corpus = whole.cut(start, whole.num_tokens - end)
        return self._conversation(corpus, width, rng)

    def _conversation(self, corpus: PocketText, width: int, rng: random.Random) -> Row:
        return conversation_row(corpus, width, rng, self.seeded, self.gap, self.max_positions)

    def train_dataloader(self) -> DataLoader:
        """Batches as they are made, in this process."""
        return DataLoader(PretrainStream(self), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream and in the curriculum."""
        return {"index": self.index, "curriculum": self.curriculum.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a place saved by `state_dict`."""
        self.index = state_dict["index"]
        self.curriculum.load_state_dict(state_dict["curriculum"])


def stack(rows: list[Row]) -> Batch:
    """Rows to tensors, padded with silent tokens (id 1) to the longest."""
    width = max(len(row.ids) for row in rows)
    fill = {"ids": 1, "roles": 0, "positions": 0}
    return {
        name: torch.tensor([getattr(row, name) + [pad] * (width - len(row.ids)) for row in rows])
        for name, pad in fill.items()
    }
