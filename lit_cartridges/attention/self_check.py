"""Before a model reads its first prefix it is tried out: a few tokens, three forward calls, once per model.

The first half of some tokens is read as a prefix and the second half behind it. The logits must be those of the plain
model on all of them, and the language head that training uses must give the model's own. So a model nobody has tried, and
a wrapper nobody thought of, is exact or refused (laws 2 and 11).
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import RLock
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.model_calls import attends_to_calls
from lit_cartridges.attention.prefixed_cache import prefixed_cache
from lit_cartridges.attention.reading import Reading
from lit_cartridges.losses import LanguageHead
from lit_cartridges.models.readable import UnreadableModelError, require_readable, text_model

_PREFIX_TOKENS = 6
_OWN_TOKENS = 6
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Of the norm of a token's logits. Rounding stays far below it, a prefix that is not read, or read wrongly, far above."""
_known: WeakSet[PreTrainedModel] = WeakSet()
_lock = RLock()


def require_exact_reading(model: PreTrainedModel) -> None:
    """Raise `UnreadableModelError`, naming model, layer and difference, unless ``model`` reads a prefix exactly."""
    if model in _known:
        return
    with _lock:
        if model in _known:
            return
        require_readable(model.config, type(model))
        was_training = model.training
        model.eval()  # dropout would differ between two readings
        try:
            _check(model)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise UnreadableModelError(
                f"{type(model).__name__} cannot read a prefix: {type(error).__name__}: {error}"
            ) from error
        finally:
            model.train(was_training)
        _known.add(model)


@dataclass
class _Tried:
    """Of one row: logits [tokens, vocabulary] and hidden states per layer [tokens, width] of the tokens behind the prefix."""

    logits: Tensor
    hidden: list[Tensor]


@torch.no_grad()
def _check(model: PreTrainedModel) -> None:
    ids = _tokens(model)
    plain = _plain(model, ids)
    read, head_logits = _behind_prefix(model, ids)
    tolerance = _TOLERANCE.get(plain.logits.dtype, _TOLERANCE[torch.bfloat16])
    name = type(model).__name__
    if (difference := _difference(read.logits, plain.logits)) > tolerance:
        apart = [_difference(a, b) > tolerance for a, b in zip(read.hidden, plain.hidden, strict=False)]
        layer = max(0, apart.index(True) - 1) if True in apart else None
        raise UnreadableModelError(
            f"{name} does not read a prefix exactly: behind it the logits differ by {difference:.2g} of their norm from "
            f"those behind the same text, {'in the head' if layer is None else f'from layer {layer} on'}; choose another "
            "model"
        )
    if head_logits is not None and (difference := _difference(head_logits, read.logits)) > tolerance:
        raise UnreadableModelError(
            f"the head of {name} cannot be called apart from it: logits differ by {difference:.2g} of their norm; choose "
            "another model"
        )


def _tokens(model: PreTrainedModel) -> Tensor:
    """[1, tokens], none of them one that stands for something else, such as an image."""
    config = model.config
    settings = {**config.get_text_config().to_dict(), **config.to_dict()}
    special = {x for key, x in settings.items() if "token_i" in key and isinstance(x, int)}
    # A sharded model's weights are not there yet, so their shape tells nothing.
    vocabulary = config.get_text_config().vocab_size
    plain = [i for i in range(vocabulary) if i not in special]
    step = max(1, len(plain) // (_PREFIX_TOKENS + _OWN_TOKENS))
    ids = [plain[(7 + i * step) % len(plain)] for i in range(_PREFIX_TOKENS + _OWN_TOKENS)]
    return torch.tensor([ids], device=model.device)


def _plain(model: Any, ids: Tensor) -> _Tried:
    return _tried(model(ids, use_cache=False, output_hidden_states=True))


def _behind_prefix(model: Any, ids: Tensor) -> tuple[_Tried, Tensor | None]:
    """The same, read behind the first tokens' keys and values; and the logits that `LanguageHead` gives."""
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    prefix, own = slice(0, _PREFIX_TOKENS), slice(_PREFIX_TOKENS, None)
    layers = model.config.get_text_config().num_hidden_layers
    cache = prefixed_cache(layers, 0)
    with attends_to_calls(model):
        given = {"position_ids": positions[:, prefix], "use_cache": True, **cache_argument(cache)}
        model.base_model(ids[:, prefix], reading=Reading(), **given)
        held: list[Any] = list(cache.layers)
        if missing := [str(i) for i, layer in enumerate(held) if layer.keys is None]:
            raise UnreadableModelError(
                f"layer {', '.join(missing)} of {type(model).__name__} keeps no keys and values of its own, and a cartridge "
                "holds some for every layer; choose another model"
            )
        reading = Reading(keys=[x.keys[0] for x in held], values=[x.values[0] for x in held])
        bodies: list[Any] = []
        # The last of them to return is what the head is given: some models call the decoder inside of the body.
        hooks = [
            body.register_forward_hook(lambda _, __, out: bodies.append(out))
            for body in {model.base_model, text_model(model)}
        ]
        try:
            out = model(
                ids[:, own],
                position_ids=positions[:, own],
                use_cache=False,
                output_hidden_states=True,
                reading=reading,
            )
        finally:
            for hook in hooks:
                hook.remove()
    tried = _tried(out, skip=0)
    if not hasattr(out, "logits"):
        return tried, None
    return tried, LanguageHead(model)(bodies[-1].last_hidden_state[0])


def _tried(out: Any, skip: int = _PREFIX_TOKENS) -> _Tried:
    logits = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return _Tried(logits[0, skip:], [x[0, skip:] for x in out.hidden_states or ()])


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Median over tokens of |ours - theirs| / |theirs|, both about their mean; infinite where something is not finite."""
    ours, theirs = (x.double() - x.double().mean(-1, keepdim=True) for x in (ours, theirs))
    shares = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-12)
    return float(shares.median()) if bool(shares.isfinite().all()) else float("inf")
