"""What `predict` computes, as a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DistributedSampler

from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.runs.atomic_files import write_atomically

FILE = "predictions.parquet"
_SCHEMA = pa.schema(
    {
        "conversation": pa.int32(),
        "label": pa.string(),
        "token": pa.int32(),
        "token_id": pa.int32(),
        "loss": pa.float32(),
        "nll": pa.float32(),
    },
    metadata={"unit": "nats"},
)


class PredictionFile(L.Callback):
    """Writes ``predictions.parquet`` into the run's folder: a row per answer token.

    Its columns: ``conversation``, in the order of the batches, and its ``label`` (the seed prompt's name); ``token``, the
    answer token's place in the conversation as the student reads it behind its cartridge, and its ``token_id``; ``loss``, the
    objective's, and ``nll``, the token's negative log-likelihood, both in nats. The command ``predict`` has one of these.

    Attributes:
        path: of the file, once it is written.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._tables: dict[int, pa.Table] = {}  # by the batch's place among those of all processes

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget another run's."""
        self.path, self._tables = None, {}

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's rows; a process has every ``world_size``-th batch, or all."""
        starts = np.cumsum([0, *batch.lengths[:-1]])
        rows = batch.label_rows.cpu().numpy()
        columns = {
            "conversation": rows,
            "label": outputs["labels"],
            "token": batch.target_rows.cpu().numpy() + 1 - starts[rows],
            "token_id": batch.targets.token_ids.cpu().numpy(),
            "loss": outputs["token_losses"].float().numpy(),
            "nll": outputs["nll"].float().numpy(),
        }
        share = isinstance(getattr(trainer.predict_dataloaders, "sampler", None), DistributedSampler)
        place = batch_idx * trainer.world_size + trainer.global_rank if share else batch_idx
        self._tables[place] = pa.table(
            {name: pa.array(columns[name], type=_SCHEMA.field(name).type) for name in _SCHEMA.names},
            schema=_SCHEMA,
        )

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows of all processes."""
        tables = _gathered(self._tables, trainer.world_size)
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        numbered, first = [], 0
        for place in sorted(tables):
            own = tables[place]["conversation"].to_numpy() + first
            numbered.append(tables[place].set_column(0, _SCHEMA.field(0), pa.array(own, type=pa.int32())))
            first = int(own.max()) + 1
        content = BytesIO()
        pq.write_table(pa.concat_tables(numbered) if numbered else _SCHEMA.empty_table(), content)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, content.getbuffer())
        self.path = folder / FILE


def _gathered(tables: dict[int, pa.Table], processes: int) -> dict[int, pa.Table]:
    if processes == 1:
        return tables
    parts: list[dict[int, pa.Table]] = [{} for _ in range(processes)]
    torch.distributed.all_gather_object(parts, tables)
    return {place: table for part in parts for place, table in part.items()}
