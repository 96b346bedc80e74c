"""One layer of a full cascade while single tokens are read: every token stays in its slot until it moves or is lost.

Keys are kept twice: as the model gave them, and rotated by their slot's number (see `RingStep.rows`). Re-indexed positions
shift all keys of a sub-cache by as much, so the query is rotated instead, twice per sub-cache: for entries before the
circular buffer's end and behind it. Products of rotated queries and keys depend on the difference of positions alone.

Legend: as in `ring_clock`; KV key heads, G query heads per key head, H token sets, N = S + 1 + C·W slots, D and V head_dims.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_cartridges.attention.extras import AttentionExtras
from lit_cartridges.attention.plain import without_autocast
from lit_cartridges.cascade.chunk_attention import probabilities
from lit_cartridges.cascade.ring_clock import RingClock, RingStep
from lit_cartridges.cascade.rotation import Turn

if TYPE_CHECKING:
    from lit_cartridges.cascade.cascade_layer import CascadeLayer


class Ring:
    """What a full layer holds, by slots, in tensors that stay where they are."""

    def __init__(self, layer: CascadeLayer, clock: RingClock, turn: Turn) -> None:
        self.clock, self.turn, self.steps = clock, turn, 0
        S, n = layer.shape.sink_tokens, layer.shape.capacity_tokens
        # Made outside of inference mode, which would not let others write them later.
        with torch.inference_mode(False), torch.no_grad():
            self.held = _with_door(torch.cat([layer.keys, layer.values], dim=3), S)  # (R, KV, N, D + V)
            self.scores = _with_door(layer.scores, S)  # (R, H, N), 0 at the door
            self.tokens = _with_door(layer.tokens, S)
            keys, W = layer.keys.clone(), layer.shape.window_tokens
            slots = torch.arange(n, device=keys.device)
            slots = torch.where(slots < S, slots, (slots - S) % W)
            turned = turn(keys, turn.at(slots[None]))
            self.front = torch.nn.functional.pad(turned[:, :, :S], (0, 0, 0, 1))  # (R, KV, S + 1, D)
            self.turned = turned[:, :, S:].contiguous()  # (R, KV, C·W, D)
        self.key_width = keys.shape[3]

    def read(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        step: RingStep,
        scale: float,
        window: int | None,
        extras: AttentionExtras,
        ema_factor: float,
        reduced: Callable[[Tensor, int], Tensor],
    ) -> Tensor:
        """As `CascadeLayer.read`, for one token per row; writes no more of what is held than the step moves."""
        R, heads, _, D = query.shape
        KV, shape = key.shape[1], self.clock.shape
        G, C, W, S = heads // KV, shape.cascades, shape.window_tokens, shape.sink_tokens
        asked, offsets = step.rows(self.turn)
        turned = self.turn(torch.cat([query, key], dim=1).expand(-1, -1, 1 + 2 * C, -1), asked)
        self.front[:, :, S:] = turned[:, heads:, :1]
        self.held[:, :, S : S + 1] = torch.cat([key, value], dim=3)
        self.tokens[:, :, S] = step.tokens

        queries = turned[:, :heads].view(R, KV, G, 1 + 2 * C, D)
        near = _product(queries[:, :, :, 0].flatten(0, 1), self.front.flatten(0, 1))
        pairs = queries[:, :, :, 1:].unflatten(3, (2, C)).permute(0, 1, 4, 3, 2, 5)  # (R, KV, C, 2, G, D)
        far = _product(pairs.reshape(R * KV * C, 2 * G, D), self.turned.view(R * KV * C, W, D))
        first, wrapped = far.view(R, KV, C, 2, G, W).unbind(3)
        far = torch.where(step.before_the_end[:, None, :, None], first, wrapped).transpose(2, 3)
        logits = torch.cat([near.view(R, KV, G, S + 1), far.reshape(R, KV, G, C * W)], dim=3) * scale
        if extras.softcap is not None:
            logits = extras.softcap * torch.tanh(logits / extras.softcap)
        if window is not None and window <= shape.capacity_tokens:
            hidden = shape.capacity_tokens - step.places >= window
            logits.masked_fill_(hidden[:, None, None], torch.finfo(torch.float32).min)
        p = probabilities(logits[:, :, :, None], extras.sinks).flatten(2, 3)  # (R, KV, G, N)
        with without_autocast(query):
            out = torch.bmm(p.to(value.dtype).flatten(0, 1), self.held[..., D:].flatten(0, 1))
        self._count(reduced(p.flatten(1, 2), KV), step, ema_factor)
        self._insert(step, offsets)
        self.steps += 1
        return out.view(R, heads, 1, -1)

    def _count(self, given: Tensor, step: RingStep, ema_factor: float) -> None:
        """``given`` [R, H, N] is added to what is left of the scores."""
        if step.real is None:
            self.scores.mul_(ema_factor).add_(given)
        else:
            self.scores.mul_(torch.where(step.real, ema_factor, 1.0)).add_(given * step.real)

    def _insert(self, step: RingStep, offsets: tuple[Tensor, Tensor]) -> None:
        slots = step.slots[:, None].expand(-1, self.scores.shape[1], -1)
        scores = self.scores.gather(2, slots)
        better = scores[:, :, 1:] >= scores[:, :, :-1]
        moves = step.due[:, None] | (step.contested[:, None] & better)  # (R, H, C)
        _move(self.scores, slots, moves, scores)
        self.scores[:, :, self.clock.shape.sink_tokens] = 0.0
        _move(self.tokens, slots, moves, self.tokens.gather(2, slots))
        slots = step.slots[:, None, :, None].expand(-1, *self.held.shape[1:2], -1, self.held.shape[3])
        new = _move(self.held, slots, moves[..., None], self.held.gather(2, slots))
        keys, D = new[..., : self.key_width], self.key_width
        places = slots[:, :, :-1, :D] - (self.clock.shape.sink_tokens + 1)
        self.turned.scatter_(2, places, self.turn(keys, offsets))

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys, values, scores and tokens in the order of their positions, as `CascadeLayer` holds them."""
        shape, heads = self.clock.shape, self.clock.heads
        own = torch.arange(shape.window_tokens, device=heads.device)
        firsts = torch.arange(shape.cascades, device=heads.device)[:, None] * shape.window_tokens
        entries = (heads[..., None] + own) % shape.window_tokens + firsts + shape.sink_tokens + 1
        sinks = torch.arange(shape.sink_tokens, device=heads.device).expand(len(heads), -1)
        slots = torch.cat([sinks, entries.flatten(1)], dim=1)[:, None]  # (R, 1, n)
        H = self.scores.shape[1]
        held = self.held.gather(2, slots[..., None].expand(-1, self.held.shape[1], -1, self.held.shape[3]))
        scores, tokens = (x.gather(2, slots.expand(-1, H, -1)) for x in (self.scores, self.tokens))
        return (
            held[..., : self.key_width].contiguous(),
            held[..., self.key_width :].contiguous(),
            scores,
            tokens,
        )

    @property
    def nbytes(self) -> int:
        """Of all that is held."""
        held = (self.held, self.front, self.turned, self.scores, self.tokens)
        return sum(x.numel() * x.element_size() for x in held)


def _with_door(x: Tensor, sinks: int) -> Tensor:
    """``x`` [R, heads, n, ...] with an empty slot behind the sinks."""
    return torch.cat([x[:, :, :sinks], torch.zeros_like(x[:, :, :1]), x[:, :, sinks:]], dim=2)


def _product(query: Tensor, key: Tensor) -> Tensor:
    """fp32 [B, a, b] of ``query`` [B, a, D] and ``key`` [B, b, D], which are rounded nowhere (law 8)."""
    with without_autocast(query):
        if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):  # no fp32 copies of the keys
            return torch.bmm(query, key.transpose(1, 2), out_dtype=torch.float32)
        return torch.bmm(query.float(), key.float().transpose(1, 2))


def _move(held: Tensor, slots: Tensor, moves: Tensor, old: Tensor) -> Tensor:
    """Write to each slot but the last what ``old`` has of the next one where ``moves`` says so; returns what stands there now."""
    new = torch.where(moves, old[:, :, 1:], old[:, :, :-1])
    held.scatter_(2, slots[:, :, :-1], new)
    return new
