"""The cartridge: trained keys and values that a frozen model reads in place of a corpus (arXiv 2506.06266, §3).

Data flow: a prefill's cache, an init strategy or a folder → `Cartridge` → `tensors()` for the attention, `as_cache()`
for plain transformers, `save_pretrained()` for a folder (see `cartridge_files`).

Keys are stored as the model caches them: after RoPE, and after the key norm where the model has one, for positions
0..num_tokens-1. The first ``num_frozen_tokens`` are the sink, which training never moves. A cartridge may hold a bias
per key as well, which attention adds to that key's scores (AttentionMatching, arXiv 2602.16284).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, PretrainedConfig, PreTrainedModel

from lit_cartridges.attention.prefixed_cache import CartridgeCache
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.models.readable import unwrapped

if TYPE_CHECKING:
    from lit_cartridges.attached import AttachedCartridge
    from lit_cartridges.routing.router import Router

from lit_cartridges.cartridge_files.facts import trained_prompts
from lit_cartridges.cartridge_files.folder import load_cartridge, push_cartridge, save_cartridge
from lit_cartridges.errors import SettingError
from lit_cartridges.models.base_weights import digest_of, require_same_weights
from lit_cartridges.models.cache_shapes import shape_differences
from lit_cartridges.provenance import Fingerprint, Provenance
from lit_cartridges.routing.router_file import load_router, save_router

__all__ = ["Cartridge", "Fingerprint", "Provenance"]


class Cartridge(nn.Module):
    """Keys and values of ``num_tokens`` positions for every layer; frozen buffers and fp32 parameters.

    Args:
        keys, values: per layer [kv_heads, num_tokens, head_dim].
        biases: per layer [kv_heads, num_tokens], added to the scaled attention scores of the keys; None for none.
        num_frozen_tokens: leading positions that stay as they are.
        provenance: what is known of its making.

    Raises:
        ValueError: layers of unequal length, or fewer than 0 or as many as all tokens frozen.
    """

    def __init__(
        self,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        biases: Sequence[Tensor] | None = None,
        *,
        num_frozen_tokens: int = 1,
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        lengths = {x.shape[-2] for x in (*keys, *values)}
        if len(keys) != len(values) or len(lengths) != 1 or any(x.ndim != 3 for x in (*keys, *values)):
            raise ValueError(
                "a cartridge needs keys and values [kv_heads, num_tokens, head_dim] of one length in every layer; got "
                f"{len(keys)} keys and {len(values)} values with num_tokens in {sorted(lengths)}"
            )
        num_tokens = lengths.pop()
        if biases is not None and [x.shape for x in biases] != [x.shape[:2] for x in keys]:
            raise ValueError(
                f"biases have shapes {[tuple(x.shape) for x in biases]}; keys of these layers need "
                f"{[tuple(x.shape[:2]) for x in keys]}, [kv_heads, num_tokens] each"
            )
        if not 0 <= num_frozen_tokens < num_tokens:
            raise ValueError(
                f"num_frozen_tokens={num_frozen_tokens} with num_tokens={num_tokens}: at least 0 tokens can be frozen, "
                f"and at least one must be left to train; choose 0 to {num_tokens - 1}"
            )
        self.num_tokens, self.num_frozen_tokens = num_tokens, num_frozen_tokens
        self.provenance = provenance or Provenance()
        self.num_layers = len(keys)
        self.frozen_keys, self.trainable_keys = _split(keys, num_frozen_tokens)
        self.frozen_values, self.trainable_values = _split(values, num_frozen_tokens)
        # None leaves no trace in state dicts and parameters, so a cartridge without biases is what it always was.
        self.frozen_biases: nn.Module | None = None
        self.trainable_biases: nn.ParameterList | None = None
        if biases is not None:
            self.frozen_biases, self.trainable_biases = _split(biases, num_frozen_tokens)

    @classmethod
    def from_cache(
        cls,
        past_key_values: Cache,
        *,
        num_frozen_tokens: int = 1,
        num_tokens: int | None = None,
        provenance: Provenance | None = None,
    ) -> Cartridge:
        """A cartridge of a prefill's cache with one row: its first ``num_tokens`` positions, or all of them.

        Raises:
            ValueError: the cache holds another number of rows, or a sliding-window layer has dropped positions.
        """
        layers: list[Any] = list(past_key_values.layers)
        rows = {layer.keys.shape[0] for layer in layers}
        if rows != {1}:
            raise ValueError(f"a cartridge is made from a cache of 1 row; this one has {sorted(rows)}")
        lengths = {layer.keys.shape[-2] for layer in layers}
        if len(lengths) != 1 or lengths != {past_key_values.get_seq_length()}:
            raise ValueError(
                f"the cache's layers hold {sorted(lengths)} of {past_key_values.get_seq_length()} positions: its "
                "sliding-window layers have dropped some; prefill with lit_cartridges.attention.prefill.prefill, which keeps all"
            )
        held = min(lengths)
        if num_tokens is not None and not 1 <= num_tokens <= held:
            raise ValueError(
                f"num_tokens={num_tokens} of a cache that holds {held} positions; choose 1 to {held}"
            )
        keys, values = (
            [getattr(layer, name)[0, :, :num_tokens] for layer in layers] for name in ("keys", "values")
        )
        return cls(keys, values, num_frozen_tokens=num_frozen_tokens, provenance=provenance)

    @classmethod
    def compose(cls, cartridges: Sequence[Cartridge], *, keep_sinks: bool = False) -> Cartridge:
        """Several cartridges side by side along the position axis (arXiv 2506.06266, §5.3), keys as they are.

        Every cartridge brings a sink of its own; repeated sinks take attention from the text (2608.30647 finds half
        the loss of composing 8 in them), so only the first cartridge's is kept unless ``keep_sinks``. Where some have
        biases, the others' are zeros.

        Raises:
            ValueError: no cartridge, or cartridges of different models; the message names the difference.
        """
        if not cartridges:
            raise ValueError("compose needs at least one cartridge; got none")
        first = cartridges[0]
        for other in cartridges[1:]:
            _require_same_model(first, other)
        require_same_weights([c.provenance for c in cartridges])
        parts = [c.tensors() for c in cartridges]
        cuts = [0 if keep_sinks or i == 0 else c.num_frozen_tokens for i, c in enumerate(cartridges)]
        keys, values = (
            [
                torch.cat([part[side][layer][:, cut:] for part, cut in zip(parts, cuts, strict=True)], dim=1)
                for layer in range(first.num_layers)
            ]
            for side in (0, 1)
        )
        biases = None
        if any(c.trainable_biases is not None for c in cartridges):
            held = [
                c.biases() or [x.new_zeros(x.shape[:2]) for x in part[0]]
                for c, part in zip(cartridges, parts, strict=True)
            ]
            biases = [
                torch.cat([one[layer][:, cut:] for one, cut in zip(held, cuts, strict=True)], dim=1)
                for layer in range(first.num_layers)
            ]
        notes: dict[str, Any] = {
            "composed_of": [c.provenance.corpus_sha256 or c.provenance.init for c in cartridges]
        }
        if prompts := trained_prompts(*(c.provenance for c in cartridges)):
            notes["settings"] = {f"data.{name}": value for name, value in prompts.items()}
        base = next((c.provenance.base for c in cartridges if digest_of(c.provenance)), first.provenance.base)
        provenance = replace(
            first.provenance, init="compose", corpus_sha256="", loss=None, base=base, notes=notes
        )
        return cls(keys, values, biases, num_frozen_tokens=first.num_frozen_tokens, provenance=provenance)

    def tensors(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values per layer [kv_heads, num_tokens, head_dim], differentiable, built anew at each call."""
        keys = _joined(self.frozen_keys, self.trainable_keys, dtype=dtype, device=device)
        return keys, _joined(self.frozen_values, self.trainable_values, dtype=dtype, device=device)

    def biases(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> list[Tensor] | None:
        """Biases per layer [kv_heads, num_tokens], or None; fp32 unless asked otherwise, which attention handles best."""
        if self.frozen_biases is None or self.trainable_biases is None:
            return None
        return _joined(self.frozen_biases, self.trainable_biases, dtype=dtype, device=device)

    def attach(
        self,
        model: Any,
        tokenizer: Any,
        *,
        router: Router | Sequence[Router | None] | None = None,
        **renderer_options: Any,
    ) -> AttachedCartridge:
        """``model`` with this cartridge in front: ``.chat("…")``, ``.generate(…)``, ``.pipeline()``.

        Args:
            model: a causal LM of transformers, bare or wrapped (torch.compile, PEFT, data-parallel).
            tokenizer: the model's, whose chat template is used.
            router: answers what is not about the corpus without the cartridge (`lit_cartridges.routing.load_router`).
            renderer_options: of the prompts (see `ChatRenderer`), by default those of the training, where they are known.

        Raises:
            ValueError: the cartridge does not fit the model, or the model cannot read it exactly.
        """
        from lit_cartridges.attached import AttachedCartridge

        return AttachedCartridge(self, model, tokenizer, router=router, **renderer_options)

    def as_cache(
        self, model: Any = None, batch_size: int = 1, *, dtype: torch.dtype | None = None
    ) -> CartridgeCache:
        """A transformers cache whose first free position is ``num_tokens``, for any attention implementation.

        ``attention_mask`` must cover the cartridge and the prompt (see `CartridgeCache`)::

            mask = torch.ones(4, cartridge.num_tokens + input_ids.shape[1])
            model.generate(input_ids, attention_mask=mask, past_key_values=cartridge.as_cache(model, batch_size=4))

        `attach` needs no mask, copies nothing per row and knows the chat template.

        Args:
            model: that will read it, which says whether the cartridge fits, and its dtype and device; None leaves these to
                the first tokens that are read.
            batch_size: rows. They are views until the first update, which copies.
            dtype: of the tensors, in place of the model's.

        Raises:
            ValueError: the cartridge has biases, which no transformers cache can carry, or does not fit the model.
        """
        if isinstance(model, int):
            raise ValueError(f"as_cache({model}): give the model first, as_cache(model, batch_size={model})")
        if self.trainable_biases is not None:
            raise ValueError(
                "this cartridge has a bias per key, and a transformers cache cannot carry one; generate with "
                "lit_cartridges.generation.generate, or fit the cartridge without it (AttentionMatching's bias=false)"
            )
        if model is None:
            return CartridgeCache(*self.tensors(dtype=dtype), batch_size=batch_size)
        bare = unwrapped(model)
        self.require_fit(bare)
        tensors = self.tensors(dtype=dtype or bare.dtype, device=bare.device)
        return CartridgeCache(*tensors, batch_size=batch_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys, values and biases as held here, in fp32; a 16-bit model reads half of it."""
        return sum(x.numel() * x.element_size() for x in (*self.buffers(), *self.parameters()))

    def require_made_for(
        self, config: PretrainedConfig, model: str, *, called: str = "this cartridge"
    ) -> None:
        """Raise SettingError, naming each difference, when the cartridge was made for a model of another shape.

        Args:
            config, model: of the model, and what the message calls it.
            called: what it calls the cartridge.
        """
        said = self.provenance.fingerprint
        differences = said.differences(Fingerprint.of_config(config)) if said else []
        # The tensors as well, whatever is said of them; without joining frozen and trained, at every generation.
        held = list(self.trainable_keys), list(self.trainable_values)
        if differences := list(dict.fromkeys([*differences, *shape_differences(*held, config)])):
            raise SettingError(
                f"{called} (of {self.provenance.base_model or 'an unnamed model'}) does not fit {model}: cartridge against "
                "model, " + "; ".join(differences)
            )

    def require_fit(self, model: PreTrainedModel) -> None:
        """Raise ValueError when the cartridge was made for a model of another shape, or leaves it no position."""
        self.require_made_for(model.config, model.config._name_or_path or type(model).__name__)
        limit = max_positions(model.config)
        if limit is not None and self.num_tokens >= limit:
            raise ValueError(
                f"num_tokens={self.num_tokens} leaves no position for the user in a model with "
                f"max_position_embeddings={limit}; choose a shorter cartridge"
            )

    def save_pretrained(self, path: str | Path) -> Path:
        """Write the folder ``path``: ``cartridge.safetensors``, ``cartridge.json`` and a model card."""
        return save_cartridge(self, Path(path))

    @classmethod
    def from_pretrained(cls, path: str | Path, **hub: Any) -> Cartridge:
        """Read a folder, or a repository of the Hub by its id (``hub`` goes to huggingface_hub's download)."""
        held = load_cartridge(path, **hub)
        return cls(
            held.keys,
            held.values,
            held.key_biases,
            num_frozen_tokens=held.num_frozen_tokens,
            provenance=held.provenance,
        )

    def push_to_hub(self, repo_id: str, *, router: Router | None = None, **hub: Any) -> str:
        """Upload the folder to the Hub; returns the commit's address.

        Args:
            router: to lie beside it (`lit_cartridges.routing.load_router`).
            hub: ``token``, ``private`` (of a repository that is new), ``license`` (by default what is noted, or what the base
                model's page names); the rest goes to huggingface_hub's ``upload_folder``.

        Raises:
            HubError: the Hub does not take it, or cannot be reached.
            RouterError: the router is another cartridge's.
        """

        def add(folder: Path) -> None:
            if router is not None:
                save_router(router, folder)
                load_router(folder)  # refuses another cartridge's

        return push_cartridge(self, repo_id, add=add, **hub)


def _split(tensors: Sequence[Tensor], num_frozen_tokens: int) -> tuple[nn.Module, nn.ParameterList]:
    """Per layer [kv_heads, num_tokens, …]: the frozen positions as buffers, the others as parameters, in fp32."""
    frozen = nn.Module()
    for layer, x in enumerate(tensors):
        frozen.register_buffer(str(layer), x.detach()[:, :num_frozen_tokens].float().clone())
    return frozen, nn.ParameterList(
        nn.Parameter(x.detach()[:, num_frozen_tokens:].float().clone()) for x in tensors
    )


def _joined(frozen: nn.Module, trained: nn.ParameterList, **to: Any) -> list[Tensor]:
    """What `_split` took apart, differentiable."""
    return [torch.cat(pair, dim=1).to(**to) for pair in zip(frozen.buffers(), trained, strict=True)]


def _require_same_model(first: Cartridge, other: Cartridge) -> None:
    prints = first.provenance.fingerprint, other.provenance.fingerprint
    differences = prints[0].differences(prints[1]) if prints[0] and prints[1] else []
    shapes = [[tuple(x.shape[::2]) for x in c.trainable_keys] for c in (first, other)]
    if not differences and shapes[0] != shapes[1]:
        differences = [f"(kv_heads, head_dim) per layer: {shapes[0]} against {shapes[1]}"]
    if differences:
        raise ValueError("cannot compose cartridges of different models: " + "; ".join(differences))
