"""The formulas of `lit_cartridges.estimates.counts` beside what this package's own code does on small models.

Nothing here is a timing: operations and live tensors are counted, so the figures are the same on a busy machine, and on a
CPU as on a GPU as far as both take the same path.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks._counters import Flops, LiveBytes
from benchmarks._models import random_conversations
from lit_cartridges.attention import reads_prefixes
from lit_cartridges.attention.kernels import attend_plain
from lit_cartridges.attention.self_check import require_exact_reading
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.data.batch import PackedBatch, pack
from lit_cartridges.estimates import counts as scaling
from lit_cartridges.estimates.shapes import Row, Shape
from lit_cartridges.losses import LanguageHead
from lit_cartridges.module import LitCartridge
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.teacher import Sampling

# Chosen so that another term weighs most in each: the MLP, the vocabulary, the cartridge.
SMALL = {
    "wide MLP": Shape(layers=3, width=64, mlp_width=384, heads=8, kv_heads=2, vocabulary=500, head_dim=16),
    "large vocabulary": Shape(
        layers=2, width=64, mlp_width=128, heads=4, kv_heads=4, vocabulary=8000, head_dim=16
    ),
    "long cartridge": Shape(
        layers=4, width=96, mlp_width=192, heads=12, kv_heads=3, vocabulary=300, head_dim=8, tied=True
    ),
}
_CARTRIDGE_TOKENS = {"wide MLP": 48, "large vocabulary": 32, "long cartridge": 700}


@dataclass(frozen=True)
class Compared:
    """One figure, by its formula and as counted."""

    model: str
    what: str
    formula: float
    measured: float

    @property
    def deviation(self) -> float:
        """Of the formula, as a share of what was counted."""
        return self.formula / self.measured - 1


def small_llama(shape: Shape, dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """A frozen random Llama of this shape."""
    with torch.device(device):
        model = LlamaForCausalLM(config_of(shape)).to(dtype)
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)


def config_of(shape: Shape) -> LlamaConfig:
    """The config that transformers knows a shape by."""
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def training_setup(
    name: str, shape: Shape, *, dtype: torch.dtype, recompute: bool, loss_chunk_tokens: int = 1024
) -> tuple[PreTrainedModel, LitCartridge, PackedBatch]:
    """A frozen model, what trains its cartridge, and a packed batch for that."""
    tokens = _CARTRIDGE_TOKENS[name]
    model = small_llama(shape, dtype)
    lit = LitCartridge(
        model="random",
        num_tokens=tokens,
        gradient_checkpointing=recompute,
        loss_chunk_tokens=loss_chunk_tokens,
    )
    lit.student, lit.head = model, LanguageHead(model)
    lit.teacher_head = lit.head
    size = (shape.kv_heads, tokens, shape.head_dim)
    keys, values = ([torch.randn(size) for _ in range(shape.layers)] for _ in range(2))
    lit.cartridge = Cartridge(keys, values, num_frozen_tokens=1)
    examples = random_conversations(5, vocabulary=shape.vocabulary, shortest=20, longest=90, top_k=4)
    return model, lit, pack(examples)


def compare_training(
    name: str, shape: Shape, *, dtype: torch.dtype, recompute: bool, loss_chunk_tokens: int = 1024
) -> list[Compared]:
    """FLOPs and bytes of one packed micro-batch through `LitCartridge`."""
    model, lit, batch = training_setup(
        name, shape, dtype=dtype, recompute=recompute, loss_chunk_tokens=loss_chunk_tokens
    )
    assert lit.cartridge is not None
    row = Row(
        lengths=batch.lengths,
        answers=len(batch.target_rows),
        prefix_tokens=lit.num_tokens,
        loss_chunk_tokens=loss_chunk_tokens,
        recompute=recompute,
        element_bytes=torch.empty((), dtype=dtype).element_size(),
    )
    held = [*model.parameters(), *model.buffers(), *lit.cartridge.parameters(), *lit.cartridge.buffers()]
    live, flops = LiveBytes([*held, *_tensors(batch)]), Flops()
    with reads_prefixes(model):
        with live, flops:
            loss = lit.losses(batch)[0]
        forward, kept = flops.total, live.now
        with live, flops:
            loss.backward()
    label = _label(dtype) + (", recomputed" if recompute else "")
    peak = scaling.kept_bytes(shape, row) + scaling.working_bytes(shape, row)
    figures: dict[str, tuple[float, float]] = {
        "FLOPs forward": (scaling.forward_flops(shape, row), forward),
        "FLOPs backward": (scaling.backward_flops(shape, row), flops.total - forward),
        "bytes kept for backward": (scaling.kept_bytes(shape, row), kept),
        "peak bytes of a step": (peak, live.peak),
    }
    return [Compared(name, f"{what}, {label}", *figure) for what, figure in figures.items()]


def compare_generating(
    name: str, shape: Shape, *, dtype: torch.dtype, chunk_tokens: int = 150, rows: int = 6
) -> list[Compared]:
    """FLOPs and bytes of a group's answers by `LocalTeacher`: prefill, prompts, decoding."""
    prompt_tokens, new_tokens = 21, 8
    model, teacher = small_llama(shape, dtype), LocalTeacher(max_rows=rows)
    teacher.bind(model, None)
    require_exact_reading(model)  # not counted: once per model, a few tokens
    prompts = [[1 + row] * prompt_tokens for row in range(rows)]
    live, flops = LiveBytes([*model.parameters(), *model.buffers()]), Flops()
    with live, flops:
        teacher.complete(
            context_ids=list(range(chunk_tokens)),
            prompts=prompts,
            sampling=Sampling(0.0, new_tokens),
            seeds=list(range(rows)),
            top_k=4,
        )
    element = torch.empty((), dtype=dtype).element_size()
    completion = scaling.completion_flops(
        shape, prefix_tokens=chunk_tokens, rows=rows, prompt_tokens=prompt_tokens, new_tokens=new_tokens
    )
    held = scaling.generating_bytes(
        shape,
        chunk_tokens=chunk_tokens,
        rows=rows,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        element=element,
    )
    counted = scaling.prefill_flops(shape, chunk_tokens) + completion
    return [
        Compared(name, f"FLOPs generating, {_label(dtype)}", counted, flops.total),
        Compared(name, f"peak bytes generating, {_label(dtype)}", held, live.peak),
    ]


def compare_plain_attention(name: str, shape: Shape, *, tokens: int) -> Compared:
    """The attention of padded prompts as a GPU does it, and of a token behind them."""
    rows, keys = 3, 96
    query = torch.randn(rows, shape.heads, tokens, shape.head_dim, dtype=torch.bfloat16)
    key, value = (torch.randn(rows, shape.kv_heads, keys, shape.head_dim).bfloat16() for _ in range(2))
    mask = torch.zeros(rows, 1, tokens, keys, dtype=torch.bfloat16)
    with LiveBytes([query, key, value, mask]) as live:
        attend_plain(query, key, value, 1.0, mask=mask)
    formula = scaling.plain_attention_bytes(shape, rows=rows, tokens=tokens, keys=keys)
    what = f"peak bytes of plain attention, {tokens} token{'s' * (tokens > 1)}"
    return Compared(name, what, formula, live.peak)


def all_compared(names: Iterable[str]) -> list[Compared]:
    """Everything, on the small models of these names."""
    found = []
    for name in names:
        for dtype in (torch.float32, torch.bfloat16):
            for recompute in (False, True):
                found += compare_training(name, SMALL[name], dtype=dtype, recompute=recompute)
            found += compare_generating(name, SMALL[name], dtype=dtype)
        found += [compare_plain_attention(name, SMALL[name], tokens=tokens) for tokens in (96, 1)]
    return found


def _label(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def _tensors(batch: PackedBatch) -> list[Tensor]:
    return [x for x in (*vars(batch).values(), *vars(batch.targets).values()) if isinstance(x, Tensor)]
