"""What a cartridge is of: the shapes and rotation of its model's cache, and how it was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What must agree between a cartridge and a model: the shapes of the cache and how its keys are rotated."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    rope: dict[str, Any]

    @classmethod
    def of_config(cls, config: PretrainedConfig) -> Fingerprint:
        """Read the fingerprint off a transformers config."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        rope = getattr(text, "rope_parameters", None) or {"rope_theta": getattr(text, "rope_theta", None)}
        return cls(
            num_layers=text.num_hidden_layers,
            num_kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            rope=_plain(rope),
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """One line per field that differs; empty when a cartridge of one fits the other."""
        ours, theirs = asdict(self), asdict(other)
        return [f"{name}: {ours[name]} against {theirs[name]}" for name in ours if ours[name] != theirs[name]]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a cartridge comes from; written to ``cartridge.json`` and the model card."""

    base_model: str = ""
    fingerprint: Fingerprint | None = None
    init: str = ""
    corpus_sha256: str = ""
    steps: int = 0
    loss: float | None = None
    base: dict[str, Any] = field(default_factory=dict)  # of its weights: see `base_weights`
    notes: dict[str, Any] = field(default_factory=dict)


def _plain(value: Any) -> Any:
    """JSON's idea of a config value, so that a fingerprint equals itself after a round trip."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in sorted(value.items())}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
