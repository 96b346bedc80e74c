"""Moving cached keys to other positions: rotary embeddings (arXiv 2104.09864) undone and done again.

A cached key is the unrotated key of its token turned by an angle per pair of coordinates and position. The model's own
rotary module gives cosines and sines, and its own `apply_rotary_pos_emb` says which coordinates form pairs, so scaled
frequencies (linear, dynamic, YaRN, Llama 3, LongRoPE), partial rotation and one rotation per layer type need no formula
here. The factor by which some of them scale keys (YaRN) is divided out and put back.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention import Reading, reads_prefixes
from lit_cartridges.attention.cache_argument import cache_argument
from lit_cartridges.attention.prefixed_cache import prefixed_cache

# Keys of 16 bits are exact to about 0.004; a key that is not rotated as we think is off by about its own size.
_TOLERANCE = 0.03
_PROBE_POSITION = 5


def turned_width(apply: Any, cosines: Tensor) -> int:
    """Coordinates that ``apply``, a model's `apply_rotary_pos_emb`, turns by ``cosines`` [..., n]: n, or 2 n (gpt-oss)."""
    one = cosines.new_ones(1, 1, cosines.shape[-1])
    for width in (one.shape[-1], 2 * one.shape[-1]):
        part = one.new_ones(1, 1, 1, width)
        try:
            if apply(part, part, one, one)[0].shape == part.shape:
                return width
        except RuntimeError:  # shapes that do not go together
            continue
    raise ValueError(f"{apply.__module__}.apply_rotary_pos_emb takes no cosines of width {one.shape[-1]}")


class Rotary:
    """How one model rotates its keys.

    Frequencies that depend on the length read (``dynamic`` beyond ``max_position_embeddings``, ``longrope``) are those
    of the largest position of each call, as in the model's own forward call.

    Raises:
        ValueError: the model's keys are not rotated, or not all of its layers' (found by reading one token, whose
            hidden states do not depend on its position, at two of them); the message names model and layer.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        decoder = model.get_decoder()
        self.module: Any = getattr(decoder, "rotary_emb", None)
        self.apply: Any = getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)
        if self.module is None or self.apply is None:
            raise ValueError(
                f"{type(model).__name__} has no rotary position embedding, so its keys cannot be moved to other "
                "positions; choose an init strategy that prefills them there, such as FirstTokens or SampledChunks"
            )
        config = model.config.get_text_config()
        by_type = "layer_type" in inspect.signature(self.module.forward).parameters
        self.layer_types = config.layer_types if by_type else None
        self._require_rotated_layers(model)

    def rotate(self, keys: Tensor, *, layer: int, from_positions: Tensor, to_positions: Tensor) -> Tensor:
        """``keys`` as the model would have cached them at ``to_positions``.

        Args:
            keys: [kv_heads, tokens, head_dim], as cached at ``from_positions``.
            layer: index of the layer that they belong to.
            from_positions, to_positions: [tokens], or [kv_heads, tokens] where heads differ; negative ones work too.

        Returns:
            [kv_heads, tokens, head_dim] in the keys' dtype; computed in fp32.
        """
        cos, sin = self._cos_sin(keys, layer, from_positions)
        # The inverse of a rotation scaled by s is the rotation by the negative angle over s².
        unrotated = self._turn(keys.float(), cos, -sin) / (cos.square() + sin.square()).mean(-1, keepdim=True)
        width = turned_width(self.apply, cos)
        unrotated = torch.cat([unrotated[..., :width], keys.float()[..., width:]], dim=-1)
        return self._turn(unrotated, *self._cos_sin(keys, layer, to_positions)).to(keys.dtype)

    def _cos_sin(self, keys: Tensor, layer: int, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[kv_heads, tokens, rotary_dim] each, or half as wide, in fp32."""
        positions = positions.to(keys.device).expand(keys.shape[:2])
        options = {} if self.layer_types is None else {"layer_type": self.layer_types[layer]}
        cos, sin = self.module(keys.float(), positions, **options)
        return cos, sin

    def _turn(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate the first rotary_dim coordinates; those that partial rotation leaves alone follow unchanged."""
        width = turned_width(self.apply, cos)
        part = keys[:, None, :, :width]
        turned = self.apply(part, part, cos, sin)[1][:, 0]
        return torch.cat([turned, keys[..., width:]], dim=-1)

    @torch.no_grad()
    def _require_rotated_layers(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        token = torch.tensor([[min(3, config.vocab_size - 1)]], device=model.device)
        held: list[list[Tensor]] = []
        with reads_prefixes(model):
            for position in (0, _PROBE_POSITION):
                cache, positions = (
                    prefixed_cache(config.num_hidden_layers, 0),
                    torch.full_like(token, position),
                )
                reading = Reading(position_ids=positions)
                model.base_model(
                    token, position_ids=positions, **cache_argument(cache), use_cache=True, reading=reading
                )
                layers: list[Any] = cache.layers
                held.append([layer.keys[0] for layer in layers])
        start, end = torch.tensor([0]), torch.tensor([_PROBE_POSITION])
        for layer, (before, after) in enumerate(zip(*held, strict=True)):
            ours = self.rotate(before, layer=layer, from_positions=start, to_positions=end)
            if (ours.float() - after.float()).norm() > _TOLERANCE * after.float().norm():
                raise ValueError(
                    f"layer {layer} of {type(model).__name__} does not rotate its keys as its rotary module says (some "
                    "models leave layers without positions), so they cannot be moved to other positions; choose an "
                    "init strategy that prefills them there, such as FirstTokens or SampledChunks"
                )
