"""The shapes that costs are computed from: a decoder such as Llama, and a packed row that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lit_cartridges.errors import CartridgesError


class ShapeError(CartridgesError, ValueError):
    """A model whose config does not tell its sizes."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama. ``tied`` means that the embedding is the output head too."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_dim: int = 128
    tied: bool = False

    @classmethod
    def of_config(cls, config: Any) -> Shape:
        """Of a transformers config. Of experts, those that a token passes count, as one MLP.

        Raises:
            ShapeError: the config does not tell a size.
        """
        text = config.get_text_config()

        def size(*names: str) -> int:
            for name in names:
                if isinstance(value := getattr(text, name, None), int) and value > 0:
                    return value
            raise ShapeError(f"the config of a {text.model_type!r} model has no {' or '.join(names)}")

        experts = getattr(text, "num_experts_per_tok", None) or 1
        mlp = ("moe_intermediate_size",) * (experts > 1) + ("intermediate_size", "ffn_dim", "n_inner")
        width, heads = size("hidden_size"), size("num_attention_heads")
        return cls(
            layers=size("num_hidden_layers"),
            width=width,
            mlp_width=size(*mlp) * experts,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            vocabulary=size("vocab_size"),
            head_dim=getattr(text, "head_dim", None) or width // heads,
            tied=bool(text.tie_word_embeddings),
        )

    @property
    def qkv_weights(self) -> int:
        """Of a layer: W · (H + 2K) · D."""
        return self.width * (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Weights of a layer's matrices: query, key, value and output, and the three of the MLP."""
        return self.qkv_weights + self.width * self.heads * self.head_dim + 3 * self.width * self.mlp_width

    @property
    def layer_weights(self) -> int:
        """With the layer's two norms."""
        return self.layer_matrices + 2 * self.width

    @property
    def head_weights(self) -> int:
        """V · W: the output head, and the embedding as well."""
        return self.vocabulary * self.width

    @property
    def weights(self) -> int:
        """All: layers, embedding, output head, last norm."""
        ends = self.head_weights if self.tied else 2 * self.head_weights
        return self.layers * self.layer_weights + ends + self.width

    @property
    def kv_elements(self) -> int:
        """Keys and values of one token in all layers: 2 · L · K · D."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Row:
    """A packed micro-batch and how it is trained.

    Args:
        lengths: tokens of each packed conversation.
        answers: answer tokens in all of them.
        prefix_tokens: of the cartridge.
        loss_chunk_tokens: answer tokens whose logits exist at a time.
        recompute: gradient checkpointing.
        element_bytes: of the frozen model.
    """

    lengths: tuple[int, ...]
    answers: int
    prefix_tokens: int
    loss_chunk_tokens: int = 1024
    recompute: bool = True
    element_bytes: int = 2

    @property
    def tokens(self) -> int:
        return sum(self.lengths)
