"""Tokens per second and hours of a run on many GPUs, and of a served teacher, from `lit_cartridges.estimates.roofline`."""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.estimates import counts as scaling
from lit_cartridges.estimates.machine import Machine
from lit_cartridges.estimates.roofline import Times, Work
from lit_cartridges.estimates.shapes import Shape


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Of all GPUs together: trained tokens a second, alone and with its own teacher; seconds and optimizer steps of a run."""

    training_tokens_per_s: float
    tokens_per_s: float
    training_s: float
    generating_s: float
    steps: int


def rates_of(gpus: int, work: Work, times: Times) -> Rates:
    """Of a run on this many GPUs."""
    per_row = len(work.row(recompute=True).lengths)
    rows_per_step = max(1, work.rows_per_step // gpus)
    steps = -(-work.conversations // (per_row * rows_per_step * gpus))
    training_s = steps * (rows_per_step * times.row_s + times.exchange_s)
    generating_s = work.conversations / work.rows_per_group / gpus * times.group_s
    tokens = work.conversations * work.conversation_tokens
    return Rates(
        training_tokens_per_s=tokens / training_s,
        tokens_per_s=tokens / (training_s + generating_s),
        training_s=training_s,
        generating_s=generating_s,
        steps=steps,
    )


def served_conversations_per_s(shape: Shape, gpus: int, work: Work, machine: Machine) -> float:
    """A served teacher that spreads each layer over ``gpus`` and replaces a row as soon as it ends.

    No code of ours, so nothing holds it: weights once per token and each row's keys and values, chunk included, two
    all-reduces a layer; prefill shared by a group.
    """
    own = work.chunk_tokens + work.conversation_tokens // 2
    weights = (shape.layers * shape.layer_matrices + shape.head_weights) * 2
    moved = weights + work.served_rows * own * shape.kv_elements * 2
    step_s = moved / (gpus * machine.hbm_bytes_per_s) + 4 * shape.layers * (gpus - 1) * machine.hop_us * 1e-6
    prefill_s = scaling.prefill_flops(shape, work.chunk_tokens) / (gpus * machine.flops_per_s)
    replies_s = (work.question_tokens + work.answer_tokens) * step_s / work.served_rows
    return 1 / (replies_s + prefill_s / work.rows_per_group)
