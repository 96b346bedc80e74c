"""From counts to seconds: what a machine is assumed to do, and what a run is assumed to be.

Nothing here is measured. Times are a roofline: the longest of matrix products, GPU memory and the launching of kernels,
and on top of it what waits for the network, since `ShardedWeights` fetches no layer ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

from lit_cartridges.estimates import counts
from lit_cartridges.estimates.machine import Machine, assumed
from lit_cartridges.estimates.shapes import Row, Shape

STRATEGIES = ("DDP", "ZeRO-3", "offload")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run, and the conversations in it; every field is an option of `benchmarks.scaling`."""

    cartridge_tokens: int = assumed(2048, "p, positions of the cartridge")
    row_tokens: int = assumed(2048, "data.tokens_per_batch, tokens of a packed row")
    loss_chunk_tokens: int = assumed(1024, "model.loss_chunk_tokens")
    rows_per_step: int = assumed(64, "packed rows of an optimizer step; at least one per GPU")
    conversations: int = assumed(65536, "conversations of a run, each trained on once")
    element_bytes: int = assumed(2, "bytes of a weight of the frozen model (bf16)")
    prompt_tokens: int = assumed(20, "mean tokens of a conversation's template")
    seed_tokens: int = assumed(60, "mean tokens of a seed prompt")
    question_tokens: int = assumed(100, "mean tokens of a question")
    answer_tokens: int = assumed(380, "mean tokens of an answer")
    longest_question_tokens: int = assumed(
        512, "data.source.question_max_tokens: a batch decodes until its longest ends"
    )
    longest_answer_tokens: int = assumed(1024, "data.source.answer_max_tokens: likewise")
    chunk_tokens: int = assumed(2304, "mean tokens of a chunk")
    longest_chunk_tokens: int = assumed(4096, "data.source.max_chunk_tokens")
    rows_per_group: int = assumed(
        32, "data.source.conversations_per_group, decoded side by side behind one chunk"
    )
    served_rows: int = assumed(128, "conversations that a served teacher decodes side by side")

    @property
    def conversation_tokens(self) -> int:
        return self.prompt_tokens + self.question_tokens + self.answer_tokens

    def row(self, *, recompute: bool) -> Row:
        """A packed row of mean conversations."""
        count = max(1, self.row_tokens // self.conversation_tokens)
        return Row(
            lengths=(self.conversation_tokens,) * count,
            answers=self.answer_tokens * count,
            prefix_tokens=self.cartridge_tokens,
            loss_chunk_tokens=self.loss_chunk_tokens,
            recompute=recompute,
            element_bytes=self.element_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Bytes on one GPU."""

    weights: float
    gathered: float
    cartridge: float
    chunk: float
    training: float
    exchange: float
    generating: float

    @property
    def total(self) -> float:
        """At the worst of three moments: a training step's activations, its exchange of gradients, or generating."""
        resident = self.weights + self.gathered + self.cartridge + self.chunk
        return resident + max(self.training, self.exchange, self.generating)


def memory(
    shape: Shape, strategy: str, gpus: int, work: Work, *, recompute: bool = True, generates: bool = True
) -> Parts:
    """What one GPU holds."""
    row, element = work.row(recompute=recompute), work.element_bytes
    weights: float = counts.whole_weight_bytes(shape, element)
    gathered = exchange = 0
    cartridge: float = counts.cartridge_bytes(shape, work.cartridge_tokens)
    if strategy != "DDP":
        shards = counts.sharded_weight_bytes(shape, gpus, element) if strategy == "ZeRO-3" else 0
        weights = shards + counts.kept_weight_bytes(shape, element)
        gathered = counts.gathered_unit_bytes(shape, element)
        cartridge = counts.zero_cartridge_bytes(shape, work.cartridge_tokens, gpus)
        exchange = counts.exchange_bytes(shape, work.cartridge_tokens, element)
    chunk = generating = 0
    if generates:
        chunk = work.longest_chunk_tokens * shape.kv_elements * element
        generating = generating_bytes(shape, work) - chunk
    return Parts(
        weights=weights,
        gathered=gathered,
        cartridge=cartridge,
        chunk=chunk,
        training=counts.kept_bytes(shape, row) + counts.working_bytes(shape, row),
        exchange=exchange,
        generating=generating,
    )


def generating_bytes(shape: Shape, work: Work) -> int:
    """Of the longest chunk, questions and answers: as counted on a CPU, or the attention that a GPU has instead."""
    rows, prompt = work.rows_per_group, work.prompt_tokens + work.longest_question_tokens
    kv_bytes = shape.kv_elements * work.element_bytes
    longest = prompt + work.longest_answer_tokens
    counted = counts.generating_bytes(
        shape,
        chunk_tokens=work.longest_chunk_tokens,
        rows=rows,
        prompt_tokens=prompt,
        new_tokens=work.longest_answer_tokens,
        element=work.element_bytes,
    )
    plain = max(
        rows * keys * kv_bytes
        + counts.plain_attention_bytes(shape, rows=rows, tokens=tokens, keys=keys, element=work.element_bytes)
        for tokens, keys in ((prompt, prompt), (1, longest))
    )
    return max(counted, work.longest_chunk_tokens * kv_bytes + plain)


def used_gb(parts: Parts, machine: Machine) -> float:
    """With what the allocator loses and what libraries take."""
    return parts.total * (1 + machine.fragmentation) / 1e9 + machine.reserved_gb


def fits(shape: Shape, strategy: str, gpus: int, parts: Parts, machine: Machine, element: int = 2) -> bool:
    """On the GPU, and offloaded weights in the nodes' CPU memory."""
    nodes = -(-gpus // machine.gpus_per_node)
    on_host = counts.gathered_bytes(shape, element) / nodes if strategy == "offload" else 0
    return used_gb(parts, machine) <= machine.gpu_gb and on_host <= machine.host_gb * 1e9


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of one GPU: a packed row, an optimizer step's exchange, a group's chunk, its questions and answers of one round,
    and one token of each answer."""

    row_s: float
    exchange_s: float
    chunk_s: float
    replies_s: float
    token_s: float

    @property
    def group_s(self) -> float:
        """Of conversations of one round."""
        return self.chunk_s + self.replies_s


def times(shape: Shape, strategy: str, gpus: int, work: Work, machine: Machine, *, recompute: bool) -> Times:
    """Of everything that a run repeats."""
    row = work.row(recompute=recompute)
    flops = counts.forward_flops(shape, row) + counts.backward_flops(shape, row)
    passes = 3 if recompute else 2
    launch_s = machine.launch_ms * 1e-3 * shape.layers
    forward_s = _gathers_s(
        shape, strategy, gpus, machine, work, counts.gathered_bytes(shape, work.element_bytes)
    )
    training_s = _gathers_s(
        shape, strategy, gpus, machine, work, counts.gathered_for_training_bytes(shape, work.element_bytes)
    )
    payload = counts.ddp_payload_bytes(shape, work.cartridge_tokens)
    seeded = work.prompt_tokens + work.seed_tokens
    question = _completion_s(shape, work, machine, seeded, work.longest_question_tokens, forward_s)
    prompt = work.prompt_tokens + work.question_tokens
    answer = _completion_s(shape, work, machine, prompt, work.longest_answer_tokens, forward_s)
    prefill_s = machine.at_once(
        counts.prefill_flops(shape, work.chunk_tokens) / machine.flops_per_s, launch_s
    )
    return Times(
        row_s=machine.at_once(flops / machine.flops_per_s, passes * launch_s) + training_s,
        # An all-reduce is two gathers' worth; ZeRO adds one, of what each GPU has updated.
        exchange_s=(2 if strategy == "DDP" else 3) * machine.gather_s(payload, gpus),
        chunk_s=prefill_s + forward_s,
        replies_s=question + answer,
        token_s=answer / work.longest_answer_tokens,
    )


def _gathers_s(shape: Shape, strategy: str, gpus: int, machine: Machine, work: Work, payload: float) -> float:
    """Of all layers, one at a time."""
    if strategy == "DDP":
        return 0.0
    units = payload / (shape.layer_weights * work.element_bytes)
    gathered = units * machine.gather_s(payload / units, gpus)
    return gathered + (machine.upload_s(payload / gpus) if strategy == "offload" else 0.0)


def _completion_s(
    shape: Shape, work: Work, machine: Machine, prompt: int, new_tokens: int, gathers_s: float
) -> float:
    """A batch of replies by `LocalTeacher`: the prompts are read, then every row decodes until the longest has ended."""
    rows, prefix, own = work.rows_per_group, work.chunk_tokens, prompt + new_tokens // 2
    read = counts.completion_flops(shape, prefix_tokens=prefix, rows=rows, prompt_tokens=prompt, new_tokens=1)
    flops = counts.decode_flops(shape, prefix_tokens=prefix, rows=rows, own_tokens=own)
    element = work.element_bytes
    moved = counts.decode_bytes(shape, prefix_tokens=prefix, rows=rows, own_tokens=own, element=element)
    launch_s = machine.launch_ms * 1e-3 * shape.layers
    read_s = machine.at_once(read / machine.flops_per_s, launch_s)
    step_s = machine.at_once(flops / machine.flops_per_s, moved / machine.hbm_bytes_per_s, launch_s)
    return read_s + (new_tokens - 1) * step_s + new_tokens * gathers_s
