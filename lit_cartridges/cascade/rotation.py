"""A model's own rotary embedding, applied at positions of our choosing.

Keys are needed un-rotated, since their positions change at every forward call. So the model's ``rotary_emb`` is made to
answer "no rotation" for the length of a ``with`` (`Rotation.suspended`), and queries and keys are rotated here instead, by
the very functions of the model's Python module: bit for bit what the model does, for any RoPE scaling, partial or
interleaved rotation.

That this holds is not taken on trust. `Rotation.of` runs four tokens through the model twice, rotated and not, with every
token attending to itself alone, so that both runs have the same hidden states, and compares each layer's keys. Layers that do
not rotate (NoPE) are noticed, and anything else is refused by name.
"""

from __future__ import annotations

import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lit_cartridges.attention.model_calls import attends_to_calls, running_reader
from lit_cartridges.attention.readers import LayerCall
from lit_cartridges.attention.rotary import turned_width
from lit_cartridges.models.readable import require_readable, text_model

_TOLERANCE = 0.01  # of the largest entry of a key; a key at a wrong position is off by many times that
# Tables kept: while tokens are generated, a layer of each kind and shape asks for the same one every time.
_MOST_TABLES = 8
_known: WeakKeyDictionary[PreTrainedModel, tuple[bool, ...]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A rotation whose tables are made.

    Args:
        tables: cosines and sines [positions, rotary_dim or half of it]; None for a layer that rotates nothing.
        function: the model's.
        width: coordinates of a head that it turns.
    """

    tables: tuple[Tensor, Tensor] | None = None
    function: Callable[..., Any] | None = None
    width: int = 0

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The tables' rows at ``positions`` [R or 1, tokens]."""
        return (positions, positions) if self.tables is None else tuple(x[positions] for x in self.tables)  # type: ignore[return-value]

    def __call__(self, x: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
        """``x`` [R, heads, tokens, head_dim] rotated by ``rows``, which `at` gave."""
        if self.function is None:
            return x
        part = x[..., : self.width]
        # The models' functions take queries and keys together; the keys given here have no heads.
        done: Tensor = self.function(part, part[:, :0], *rows)[0]
        return done if self.width == x.shape[-1] else torch.cat([done, x[..., self.width :]], dim=-1)


class Rotation:
    """Rotates the queries and keys of a model's layers; made by `Rotation.of`.

    Raises:
        ValueError: the model has no rotary embedding, or not where transformers' models have it.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        inner = text_model(model)
        rotary = getattr(inner, "rotary_emb", None)
        function = getattr(sys.modules[type(inner).__module__], "apply_rotary_pos_emb", None)
        if not isinstance(rotary, nn.Module) or function is None or not model._can_set_attn_implementation():
            raise ValueError(
                f"{type(model).__name__} has no rotary position embedding that can be re-indexed, so it cannot read a "
                "cascade; choose a RoPE model that uses transformers' attention interface (Llama, Qwen, Mistral, Phi, …)"
            )
        require_readable(model.config, type(model))
        self._rotary: Any = rotary
        self._function: Any = function
        text = model.config.get_text_config()
        self.rotated: tuple[bool, ...] = (True,) * text.num_hidden_layers
        takes_kind = "layer_type" in inspect.signature(rotary.forward).parameters
        self._kinds: list[str | None] = list(text.layer_types) if takes_kind else [None] * len(self.rotated)
        self._turns: OrderedDict[Any, Turn] = OrderedDict()

    @classmethod
    def of(cls, model: PreTrainedModel) -> Rotation:
        """The rotation of ``model``, tried out once per model.

        Raises:
            ValueError: the positions are not rotary, or not applied as expected; the message names model and layer.
        """
        rotation = cls(model)
        if model not in _known:
            _known[model] = _try_out(model, rotation)
        rotation.rotated = _known[model]
        return rotation

    def rotate(self, layer: int, x: Tensor, positions: Tensor, limit: int) -> Tensor:
        """Queries or keys ``x`` [R, heads, tokens, head_dim] of a layer at ``positions`` [R or 1, tokens].

        Args:
            limit: one more than the largest position of this forward call, which some RoPE scalings depend on.
        """
        turn = self.turn(layer, x, limit)
        return turn(x, turn.at(positions))

    def turn(self, layer: int, like: Tensor, limit: int, more: int = 0) -> Turn:
        """The rotation of a layer in the dtype and on the device of ``like``, at positions below ``limit + more``.

        Args:
            limit: as for `rotate`. The rows beyond are those before, turned on: by its own tables a model that scales them
                with the largest position would rotate everything else otherwise.
            more: up to ``limit``.
        """
        if not self.rotated[layer]:
            return Turn()
        kind = self._kinds[layer]
        id_ = kind, limit, more, like.dtype, like.device
        if id_ not in self._turns:
            cos, sin = self._table(kind, like, limit)
            if more:
                exact = self._table(kind, like[:1, :1, :1].float(), limit)
                cos, sin = (
                    torch.cat([x, y.to(x.dtype)])
                    for x, y in zip((cos, sin), _beyond(*exact, more), strict=True)
                )
            self._turns[id_] = Turn(
                tables=(cos, sin), function=self._function, width=turned_width(self._function, cos)
            )
            if len(self._turns) > _MOST_TABLES:
                self._turns.popitem(last=False)
        self._turns.move_to_end(id_)
        return self._turns[id_]

    def _table(self, kind: str | None, like: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [limit, rotary_dim or half of it]."""
        more = {} if kind is None else {"layer_type": kind}
        # `forward` rather than a call, whose hooks say "no rotation" while suspended.
        cos, sin = self._rotary.forward(like, torch.arange(limit, device=like.device)[None], **more)
        return cos[0], sin[0]

    @contextmanager
    def left_to_readers(self) -> Iterator[None]:
        """Inside, the model neither rotates nor scales its queries and keys in calls whose reader wants them without."""

        def unrotated() -> bool:
            reader = running_reader()
            return reader is not None and reader.unrotated

        def forget_positions(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            if not unrotated():
                return None
            # Dynamic scalings grow with the largest position they are shown; the stream's has no end.
            args = tuple(torch.zeros_like(x) if i == 1 else x for i, x in enumerate(args))
            if "position_ids" in kwargs:
                kwargs = kwargs | {"position_ids": torch.zeros_like(kwargs["position_ids"])}
            return args, kwargs

        def no_rotation(_: nn.Module, __: tuple, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
            return (torch.ones_like(out[0]), torch.zeros_like(out[1])) if unrotated() else None

        before = self._rotary.register_forward_pre_hook(forget_positions, with_kwargs=True)
        after = self._rotary.register_forward_hook(no_rotation)
        try:
            yield
        finally:
            before.remove()
            after.remove()


class _Probe:
    """Reads as if each token could see itself alone, and notes the keys."""

    def __init__(self, *, unrotated: bool) -> None:
        self.unrotated = unrotated
        self.keys: dict[int, Tensor] = {}

    def begin(self, keywords: dict[str, Any]) -> _Probe:
        return self

    def end(self) -> None:
        pass

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: LayerCall) -> Tensor:
        self.keys[call.layer] = key.detach()
        return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)


def _beyond(cos: Tensor, sin: Tensor, more: int) -> tuple[Tensor, Tensor]:
    """The rows of the next ``more`` positions: the last one's angles and those of 1, 2, …; some tables carry a factor."""
    factor, first, last = cos[0], slice(1, more + 1), slice(-1, None)
    return (cos[last] * cos[first] - sin[last] * sin[first]) / factor, (
        sin[last] * cos[first] + cos[last] * sin[first]
    ) / factor


@torch.no_grad()
def _try_out(model: PreTrainedModel, rotation: Rotation) -> tuple[bool, ...]:
    """Per layer, whether it rotates."""
    name = type(model).__name__
    ids = torch.zeros(1, 4, dtype=torch.long, device=model.device)
    positions = torch.arange(4, device=model.device)[None]
    theirs, plain = _Probe(unrotated=False), _Probe(unrotated=True)
    with attends_to_calls(model), rotation.left_to_readers():
        for probe in (theirs, plain):
            model.base_model(ids, position_ids=positions, use_cache=False, reading=probe)
    rotated = []
    for layer in range(len(rotation.rotated)):
        if layer not in plain.keys:
            raise ValueError(
                f"layer {layer} of {name} has no keys and values of its own, so it cannot read a cascade; choose a model "
                "whose every layer is one of full or sliding attention"
            )
        expected, key = theirs.keys[layer], plain.keys[layer]
        ours = rotation.rotate(layer, key, positions.to(key.device), 4)
        if float((expected - ours).abs().max()) <= _TOLERANCE * float(expected.abs().max()):
            rotated.append(True)
        elif torch.equal(expected, key):
            rotated.append(False)
        else:
            raise ValueError(
                f"layer {layer} of {name} does not rotate its keys as its `apply_rotary_pos_emb` does, so their positions "
                "cannot be re-indexed and it cannot read a cascade"
            )
    return tuple(rotated)
