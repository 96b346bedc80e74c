"""Memory, work, time and bytes of a run, from its plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lit_cartridges.estimates import counts, roofline
from lit_cartridges.estimates.lengths import FILE_BYTES
from lit_cartridges.estimates.machine import Machine
from lit_cartridges.estimates.roofline import Parts
from lit_cartridges.estimates.run_numbers import LOCAL, NONE, SERVED, RunNumbers
from lit_cartridges.estimates.shapes import Row, Shape

CHECKPOINTS = 3  # last.ckpt, previous.ckpt, best.ckpt
_TOP_ENTRY_BYTES = 12  # place, token id, log-probability
_TEXT_BYTES_PER_TOKEN = 5


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Figures of a run; None where it is not known. Memory is that of one process, files are their tensors."""

    weight_bytes: float
    cartridge_and_moments_bytes: float
    activation_bytes: float
    training_peak_bytes: float
    generating_peak_bytes: float | None
    device_bytes: float
    optimizer_steps: int
    rows: int
    conversations_per_row: float
    conversations: int
    read_tokens_per_conversation: float
    generated_tokens_per_conversation: float
    trained_tokens: float
    training_flops: float
    generating_flops: float | None
    training_s: float
    generating_s: float | None
    total_s: float | None
    cartridge_file_bytes: int
    checkpoint_bytes: int
    recording_bytes: float | None
    recording_is_a_bound: bool

    @property
    def fits(self) -> bool:
        """On the device, in training and in generating."""
        return max(self.training_peak_bytes, self.generating_peak_bytes or 0) <= self.device_bytes


def estimate(
    shape: Shape,
    run: RunNumbers,
    machine: Machine,
    *,
    teacher_shape: Shape | None = None,
    teacher_tokens_per_s: float | None = None,
) -> Estimate:
    """Of a run from its first step on.

    Args:
        shape: of the student.
        teacher_shape: of another model that asks and answers in process.
        teacher_tokens_per_s: what a served teacher generates, of all its servers.
    """
    asked = teacher_shape or shape
    parts = _parts(shape, asked, run)
    trains = roofline.used_gb(replace(parts, generating=0), machine) * 1e9
    row, work = _row(shape, run), run.work(longest=False)
    times = roofline.times(shape, run.strategy, run.processes, work, machine, recompute=run.recompute)
    again = _reading_again_flops(shape, run, row) / machine.flops_per_s
    training_s = run.steps * (run.rows_per_step * (times.row_s + again) + times.exchange_s)
    asking = roofline.times(asked, run.strategy, run.processes, work, machine, recompute=run.recompute)
    generating_s = _generating_s(run, asking, teacher_tokens_per_s)
    trained, whole = (
        shape.kv_elements * (run.num_tokens - run.num_frozen_tokens),
        shape.kv_elements * run.num_tokens,
    )
    recording = _recording_bytes(run)
    return Estimate(
        weight_bytes=parts.weights + parts.gathered,
        cartridge_and_moments_bytes=parts.cartridge,
        activation_bytes=max(parts.training, parts.exchange),
        training_peak_bytes=trains,
        generating_peak_bytes=(
            roofline.used_gb(
                replace(parts, training=0, exchange=0, chunk=parts.chunk * run.chunks_held), machine
            )
            * 1e9
            if run.teacher == LOCAL
            else None
        ),
        device_bytes=machine.gpu_gb * 1e9,
        optimizer_steps=run.steps,
        rows=run.rows,
        conversations_per_row=run.conversations_per_row,
        conversations=run.conversations,
        read_tokens_per_conversation=run.read_tokens_per_conversation,
        generated_tokens_per_conversation=run.generated_tokens_per_conversation,
        trained_tokens=run.rows * run.conversations_per_row * run.talk_tokens,
        training_flops=run.rows
        * (
            counts.forward_flops(shape, row)
            + counts.backward_flops(shape, row)
            + _reading_again_flops(shape, run, row)
        ),
        generating_flops=_generating_flops(asked, run) if run.teacher == LOCAL else None,
        training_s=training_s,
        generating_s=generating_s,
        total_s=_total_s(run, training_s, generating_s),
        cartridge_file_bytes=whole * counts.FP32,
        checkpoint_bytes=CHECKPOINTS * (whole + 2 * trained) * counts.FP32,
        recording_bytes=recording,
        recording_is_a_bound=run.lengths.talk_bytes is None,
    )


def _parts(shape: Shape, asked: Shape, run: RunNumbers) -> Parts:
    def memory(of: Shape) -> Parts:
        work, generates = run.work(longest=True), run.teacher == LOCAL
        return roofline.memory(
            of, run.strategy, run.processes, work, recompute=run.recompute, generates=generates
        )

    parts, asking = memory(shape), memory(asked)
    parts = replace(parts, chunk=asking.chunk, generating=asking.generating)
    row = _row(shape, run)
    parts = replace(parts, training=counts.kept_bytes(shape, row) + counts.working_bytes(shape, row))
    if run.strategy == "DDP":
        parts = replace(parts, weights=run.weights * run.element_bytes)
        if run.processes == 1:  # no bucket of DDP's
            trained = counts.trained_elements(shape, run.num_tokens, run.num_frozen_tokens)
            parts = replace(parts, cartridge=parts.cartridge - trained * counts.FP32)
    return parts


def _row(shape: Shape, run: RunNumbers) -> Row:
    """A packed row of mean conversations of all rounds."""
    count = max(1, round(run.conversations_per_row))
    return Row(
        lengths=(min(round(run.talk_tokens), run.tokens_per_batch),) * count,
        answers=round(run.rounds * run.lengths.answer) * count,
        prefix_tokens=run.num_tokens,
        loss_chunk_tokens=run.loss_chunk_tokens,
        recompute=run.recompute,
        element_bytes=run.element_bytes,
    )


def _reading_again_flops(shape: Shape, run: RunNumbers, row: Row) -> int:
    if not run.reads_again:
        return 0
    return len(row.lengths) * counts.prefill_flops(shape, run.chunk_tokens + row.lengths[0])


def _turns(run: RunNumbers) -> tuple[int, int]:
    """Batches that decode a group, and conversations side by side in each."""
    side_by_side = min(run.rows_side_by_side, run.conversations_per_group)
    return math.ceil(run.conversations_per_group / side_by_side), side_by_side


def _generating_flops(shape: Shape, run: RunNumbers) -> float:
    turns, rows = _turns(run)
    in_front = run.chunk_tokens + run.corpus_in_front_tokens

    def completed(prompt_tokens: float, new_tokens: float) -> int:
        return counts.completion_flops(
            shape,
            prefix_tokens=in_front,
            rows=rows,
            prompt_tokens=round(prompt_tokens),
            new_tokens=math.ceil(new_tokens),
        )

    question = completed(run.seed_tokens, run.lengths.longest_question)
    answer = completed(run.template_tokens + run.lengths.question, run.lengths.longest_answer)
    return run.groups * (counts.prefill_flops(shape, in_front) + turns * run.rounds * (question + answer))


def _generating_s(run: RunNumbers, times: roofline.Times, tokens_per_s: float | None) -> float | None:
    if run.teacher == NONE:
        return 0.0
    if run.teacher == SERVED:
        tokens = run.conversations * run.generated_tokens_per_conversation
        return None if tokens_per_s is None else tokens / tokens_per_s
    turns, _ = _turns(run)
    return run.groups / run.processes * (times.chunk_s + turns * run.rounds * times.replies_s)


def _total_s(run: RunNumbers, training_s: float, generating_s: float | None) -> float | None:
    """One after the other in process; a served teacher writes while the run trains, after the first round."""
    if generating_s is None:
        return None
    return max(training_s, generating_s) if run.threaded else training_s + generating_s


def _recording_bytes(run: RunNumbers) -> float | None:
    """As those before; else the most that there may be: ``top_k`` log-probabilities of every answer token, uncompressed."""
    if run.teacher == NONE:
        return 0.0
    parts = run.groups * FILE_BYTES
    if run.lengths.talk_bytes is not None:
        return parts + run.conversations * run.lengths.talk_bytes
    answer = run.rounds * run.lengths.answer * run.top_k * _TOP_ENTRY_BYTES
    talk = run.talk_tokens * (_TEXT_BYTES_PER_TOKEN + 4)
    return parts + run.conversations * (answer + talk) + run.groups * run.chunk_tokens * _TEXT_BYTES_PER_TOKEN
