"""Several sequences packed into one row.

Data flow: `Example` (a conversation as token ids) → `pack` → `PackedBatch`, one row of at most ``tokens_per_batch``
tokens without padding, whose sequences do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_cartridges.attention.varlen import cum_seq_of
from lit_cartridges.data.sources.example import Example
from lit_cartridges.losses import Targets


@dataclass(kw_only=True)
class PackedBatch:
    """Sequences one after the other in a single row.

    Args:
        input_ids: [1, tokens].
        position_ids: [1, tokens], counted from each sequence's start; the cartridge's length is still to be added.
        lengths: tokens of each sequence.
        target_rows: [answers], places in the row whose next token is a target.
        targets: what is known of these next tokens, all [answers, …].
        labels: one per sequence; ``label_rows`` [answers] says which sequence a target belongs to.
        contexts: per sequence, what the teacher read in front.
        cum_seq: where each sequence begins, and the last one ends: [sequences + 1], int32; of ``lengths`` unless given.
        window_answers: targets in all micro-batches of this optimizer step, on this rank.
        stream_state: where the stream stands once this batch has been used; None within an optimizer step.
        stream: the stream that it is of, which `used` tells.
        counts: what the stream has counted so far (conversations made, cut, …, seconds spent generating).
    """

    input_ids: Tensor
    position_ids: Tensor
    lengths: tuple[int, ...]
    target_rows: Tensor
    targets: Targets
    labels: tuple[str, ...]
    label_rows: Tensor
    contexts: tuple[tuple[int, ...], ...]
    cum_seq: Tensor | None = None
    window_answers: int = 0
    stream_state: Any = None
    stream: Any = field(default=None, repr=False)
    counts: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cum_seq is None:
            self.cum_seq = cum_seq_of(self.lengths)

    def to(self, device: torch.device | str, **options: Any) -> PackedBatch:
        """The batch with its tensors on ``device``; Lightning calls this. A CUDA device is not waited for."""
        options.setdefault("non_blocking", torch.device(device).type == "cuda")
        names = ("input_ids", "position_ids", "target_rows", "label_rows", "cum_seq")
        moved = {name: getattr(self, name).to(device, **options) for name in names}
        targets = {name: x.to(device, **options) for name, x in vars(self.targets).items() if x is not None}
        return replace(self, **moved, targets=replace(self.targets, **targets))

    def used(self) -> None:
        """It has been trained on: its stream, if it is of one, goes on behind it."""
        if self.stream is not None and self.stream_state is not None:
            self.stream.used(self.stream_state)


def pack(examples: Sequence[Example]) -> PackedBatch:
    """Join examples into one row; lists of top-k are padded to the widest."""
    lengths = tuple(len(example.token_ids) for example in examples)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
    width = max((example.top_ids.shape[1] for example in examples), default=0)
    top_ids, top_logprobs = (
        np.concatenate([_widen(getattr(e, name), width, fill) for e in examples])
        for name, fill in (("top_ids", 0), ("top_logprobs", -np.inf))
    )
    answers = [len(example.target_ids) for example in examples]
    return PackedBatch(
        input_ids=torch.from_numpy(np.concatenate([e.token_ids for e in examples]))[None],
        position_ids=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
        lengths=lengths,
        target_rows=torch.from_numpy(
            np.concatenate([e.target_rows + s for e, s in zip(examples, starts, strict=True)])
        ),
        targets=Targets(
            token_ids=torch.from_numpy(np.concatenate([e.target_ids for e in examples])),
            top_ids=torch.from_numpy(top_ids) if width else None,
            top_logprobs=torch.from_numpy(top_logprobs) if width else None,
        ),
        labels=tuple(example.label for example in examples),
        label_rows=torch.from_numpy(np.repeat(np.arange(len(examples)), answers)),
        contexts=tuple(example.context_ids for example in examples),
    )


def packed(
    examples: Sequence[Example], tokens_per_batch: int, *, batches_per_step: int = 1
) -> list[PackedBatch]:
    """All examples in their order, in as few batches of at most ``tokens_per_batch`` tokens as that allows.

    Longer ones are cut, and left out where no answer token is left. ``DataLoader(packed(…), batch_size=None)`` is a loader
    that trains.

    Args:
        batches_per_step: ``accumulate_grad_batches`` of the trainer: batches of an optimizer step know of each other's answers.
    """
    batches: list[list[Example]] = [[]]
    tokens = 0
    for example in (e.cut(tokens_per_batch) for e in examples):
        if not len(example.target_ids):
            continue
        if batches[-1] and tokens + len(example.token_ids) > tokens_per_batch:
            batches.append([])
            tokens = 0
        batches[-1].append(example)
        tokens += len(example.token_ids)
    made = [pack(batch) for batch in batches if batch]
    for first in range(0, len(made), batches_per_step):
        window = made[first : first + batches_per_step]
        for batch in window:
            batch.window_answers = sum(len(one.target_rows) for one in window)
    return made


def _widen(rows: NDArray[Any], width: int, fill: float) -> NDArray[Any]:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)
