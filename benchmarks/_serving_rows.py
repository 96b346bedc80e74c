"""Tokens per second of the largest batch that fits, after the protocol of arXiv 2506.06266: decode 128 tokens, 3 warm-ups,
mean and deviation of 5.

Two ways to hold what rows read: private, a copy for every row, as the paper's engine does, written in place and read by SDPA
without a mask; and shared, one for all rows (`generate_from_prefix`). What is held is random: speed does not depend on it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from benchmarks import _common as common
from benchmarks._models import kv_bytes_per_token, random_prefix
from lit_cartridges.attention.cache_argument import cache_argument, cache_of
from lit_cartridges.generation import generate_from_prefix

T = TypeVar("T")

PRIVATE, SHARED = "private", "shared"
COMPRESSION, PAPERS_RATIO = 38.6, 26.4  # arXiv 2506.06266: memory, and peak tokens a second, against ICL
WARM_UPS, RUNS = 3, 5
_ICL, _OWN, _ONE = "corpus, a cache per row", "cartridge, one per row", "cartridge, one for all rows"
WAYS = {_ICL: (1.0, PRIVATE), _OWN: (COMPRESSION, PRIVATE), _ONE: (COMPRESSION, SHARED)}
"""Name -> how many times fewer tokens than the corpus, and who holds them."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Of one batch. ``cache_bytes`` are those of all keys and values at the end; a single run has no deviation."""

    held_tokens: int
    rows: int
    cache_bytes: int
    tokens_per_s: float
    deviation_per_s: float | None
    runs: int


class PrivateLayer(DynamicLayer):
    """Keys and values [rows, kv_heads, held + new, head_dim], the first ``held`` random, the others written in place."""

    def __init__(self, like: Tensor, *, held: int, new: int) -> None:
        super().__init__()
        shape = (like.shape[0], like.shape[1], held + new, like.shape[3])
        self.buffers = [torch.empty_like(like).resize_(shape).normal_(0, 0.3) for _ in range(2)]
        self.held, self.is_initialized = held, True
        self.dtype, self.device = like.dtype, like.device
        self.rewind()

    def rewind(self) -> None:
        """Back to what was held at the beginning."""
        self.keys, self.values = (buffer[:, :, : self.held] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        first = self.keys.shape[2]
        last = first + key_states.shape[2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:, :, first:last] = states
        self.keys, self.values = (buffer[:, :, :last] for buffer in self.buffers)
        return self.keys, self.values


def private_cache(model: Any, *, rows: int, held: int, new: int) -> Cache:
    """Of `PrivateLayer`s."""
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    like = torch.empty(rows, config.num_key_value_heads, 0, width, dtype=model.dtype, device=model.device)
    layers = [PrivateLayer(like, held=held, new=new) for _ in range(config.num_hidden_layers)]
    return Cache(layers=layers)


@torch.no_grad()
def decode_private(model: Any, cache: Any, new_tokens: int) -> Tensor:
    """Greedy, [rows, new_tokens], from the cache's beginning."""
    for layer in cache.layers:
        layer.rewind()
    token = torch.zeros(cache.layers[0].keys.shape[0], 1, dtype=torch.long, device=model.device)
    tokens = []
    for _ in range(new_tokens):
        logits = model(token, **cache_argument(cache), use_cache=True, logits_to_keep=1).logits
        tokens.append(token := logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(tokens, dim=1)


def throughput(
    model: Any,
    way: str,
    *,
    held: int,
    new_tokens: int,
    free_bytes: int,
    max_rows: int,
    warm_ups: int = WARM_UPS,
    runs: int = RUNS,
    seconds: float = float("inf"),
) -> Throughput | None:
    """Of the largest batch that fits, to a sixteenth, where memory runs out before it should; None where no row fits.

    Args:
        held: tokens that each row reads.
        free_bytes: for keys, values and logits.
        seconds: to be spent on runs, as many as fit, one at the least; warm-ups and trials of a size are then of four tokens.
    """
    first = new_tokens if seconds == float("inf") else min(4, new_tokens)

    def measured(rows: int) -> Throughput | None:
        return _unless_memory_runs_out(
            lambda: _measure(model, way, rows, held, new_tokens, [first] * warm_ups, runs, seconds)
        )

    def fits(rows: int) -> bool:
        return (
            _unless_memory_runs_out(lambda: _decoder(model, way, rows, held, new_tokens)(first)) is not None
        )

    rows = largest(
        fits, _rows(model, way, held=held, new_tokens=new_tokens, free_bytes=free_bytes, max_rows=max_rows)
    )
    while rows:
        if (found := measured(rows)) is not None:
            return found
        rows = rows * 15 // 16  # the trial was shorter than a run
    return None


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to ``most`` that fits, to a sixteenth: ``most`` first, then by halves; 0 where not even 1 does."""
    found, too_many, tried = 0, most + 1, most
    while tried > found and too_many - found > max(1, found // 16):
        if fits(tried):
            found = tried
        else:
            too_many = tried
        tried = (found + too_many) // 2
    return found


def _unless_memory_runs_out(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if not common.out_of_memory(error):
            raise
    common.free_memory()  # outside of the handler, whose error holds tensors
    return None


def ratios(rates: Mapping[str, float]) -> dict[str, float]:
    """Tokens per second of the cartridge's `WAYS`, divided by those with the corpus in a cache per row."""
    return {f"{way} ÷ corpus": rates[way] / rates[_ICL] for way in (_OWN, _ONE) if {_ICL, way} <= set(rates)}


def _rows(model: Any, way: str, *, held: int, new_tokens: int, free_bytes: int, max_rows: int) -> int:
    per_token, once = kv_bytes_per_token(model), 0
    # Logits in the model's dtype and in fp32 more than once.
    row = new_tokens * per_token + 12 * model.config.vocab_size
    if way == SHARED:
        once = held * per_token
    else:
        row += held * per_token
    return max(0, min(max_rows, int(0.95 * free_bytes - once) // row))


def _decoder(model: Any, way: str, rows: int, held: int, new_tokens: int) -> Callable[[int], int]:
    """Decodes so many tokens, at most ``new_tokens``, in every row, and returns how many positions the last of them read.

    What is held is there when this returns.
    """
    if way == PRIVATE:
        cache = private_cache(model, rows=rows, held=held, new=new_tokens)

        def private(tokens: int) -> int:
            assert decode_private(model, cache, tokens).shape == (rows, tokens)
            return int(min(layer.keys.shape[2] for layer in cache.layers))

        return private
    prefix = tuple([x.to(model.dtype) for x in side] for side in random_prefix(model, held))
    first = torch.ones(rows, 1, dtype=torch.long, device=model.device)  # not what pads

    def shared(tokens: int) -> int:
        out = generate_from_prefix(
            model,
            *prefix,
            first,
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
        )
        assert out.sequences.shape == (rows, 1 + tokens)
        read = cache_of(out)
        return int(read.prefix_tokens + read.own_tokens)

    return shared


def _measure(
    model: Any,
    way: str,
    rows: int,
    held: int,
    new_tokens: int,
    warm_ups: Sequence[int],
    runs: int,
    seconds: float,
) -> Throughput:
    decode = _decoder(model, way, rows, held, new_tokens)
    for tokens in warm_ups:
        decode(tokens)
    device = model.device.type
    clock, spent = f"{common.clock_of(device)}_s", 0.0
    rates: list[float] = []
    read: list[int] = []
    while not rates or (len(rates) < runs and spent + spent / len(rates) <= seconds):
        sample = common.timed(lambda: read.append(decode(new_tokens)), device)
        spent += sample.wall_s
        rates.append(rows * new_tokens / getattr(sample, clock))
    if set(read) != {held + new_tokens}:
        raise AssertionError(
            f"{way}: the last token read {read[0]} positions, not {held} held and {new_tokens} of its own"
        )
    own = rows * (new_tokens + (held if way == PRIVATE else 0)) + (held if way == SHARED else 0)
    return Throughput(
        held_tokens=held,
        rows=rows,
        cache_bytes=own * kv_bytes_per_token(model),
        tokens_per_s=statistics.mean(rates),
        deviation_per_s=statistics.stdev(rates) if len(rates) > 1 else None,
        runs=len(rates),
    )
