"""A run's new cartridge: the init strategy looks at the run's corpus, model and teacher.

Data flow: `Material` → `init_context` → `InitStrategy.tensors` → `Cartridge` with its provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cartridge_files.facts import license_of
from lit_cartridges.conversations.material import Material
from lit_cartridges.errors import SettingError
from lit_cartridges.init import InitContext, InitStrategy
from lit_cartridges.models import resolve
from lit_cartridges.models.base_weights import base_of

# Added to the seed for conversations that an init strategy looks at: neither trained on nor validated on.
_INIT_SEED = 2_000_003


def require_material(init: InitStrategy, material: Material | None) -> None:
    """
    Raises:
        SettingError: the strategy reads the corpus, or conversations, and there are none.
    """
    if material is None:
        if init.reads_corpus:
            raise SettingError(
                "starts from a corpus, and none is known: call module.connect(data) with a SelfStudyDataModule, or start "
                "by FromCartridge",
                {"model.init": init.describe()},
            )
    elif material.conversations is None and init.reads_conversations:
        raise SettingError(
            "starts from conversations about the corpus, and data.source has none; choose data.source=SelfStudy or "
            "Recorded, or FirstTokens",
            {"model.init": init.describe()},
        )


def init_context(
    material: Material | None,
    model: PreTrainedModel,
    *,
    num_tokens: int,
    seed: int,
    progress: bool = False,
) -> InitContext:
    """What a strategy may look at; without material the model alone.

    Raises:
        ValueError: more positions than the model has.
    """
    if material is None:
        return InitContext(model=model, context_ids=(), num_tokens=num_tokens, seed=seed, progress=progress)
    made = material.conversations
    return InitContext(
        model=model,
        context_ids=material.renderer.context_ids(material.corpus_ids),
        corpus_ids=material.corpus_ids.tolist(),
        num_tokens=num_tokens,
        seed=seed,
        renderer=material.renderer,
        self_study=None if made is None else partial(made, seed=seed + _INIT_SEED, progress=progress),
        progress=progress,
    )


def new_cartridge(
    init: InitStrategy,
    context: InitContext,
    material: Material | None,
    *,
    base_model: str,
    num_frozen_tokens: int,
) -> Cartridge:
    """A cartridge as ``init`` starts it.

    Args:
        base_model: the model by the name it was loaded from, for the provenance.
        num_frozen_tokens: leading positions that stay as they start.

    Raises:
        ValueError: the strategy cannot start such a cartridge.
    """
    keys, values, biases = init.tensors(context)
    provenance = _provenance(init, material, base_model=base_model, model=context.model)
    return Cartridge(keys, values, biases, num_frozen_tokens=num_frozen_tokens, provenance=provenance)


def checkpoint_cartridge(
    checkpoint: Path,
    init: InitStrategy,
    material: Material | None,
    *,
    base_model: str,
    model: PreTrainedModel,
) -> Cartridge:
    """The cartridge of a checkpoint that this run goes on from, for which ``init`` need not be computed again.

    Its provenance is what this run's settings say; whether the checkpoint agrees, the module asks before it goes on.

    Raises:
        ValueError: a checkpoint without a cartridge.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    if "cartridge.frozen_keys.0" not in state:
        raise ValueError(f"the checkpoint {checkpoint} holds no cartridge; give one of a run of LitCartridge")
    return cartridge_of(state, _provenance(init, material, base_model=base_model, model=model))


def cartridge_of(state: Mapping[str, Tensor], provenance: Provenance | None = None) -> Cartridge:
    """The cartridge that `LitCartridge.state_dict` tells of."""
    layers = range(sum(name.startswith("cartridge.frozen_keys.") for name in state))

    def tensors(kind: str) -> list[Tensor]:
        """Per layer, the frozen positions in front."""
        names = (
            (f"cartridge.frozen_{kind}.{layer}", f"cartridge.trainable_{kind}.{layer}") for layer in layers
        )
        return [torch.cat([state[frozen], state[trainable]], dim=1) for frozen, trainable in names]

    return Cartridge(
        tensors("keys"),
        tensors("values"),
        tensors("biases") if "cartridge.frozen_biases.0" in state else None,
        num_frozen_tokens=state["cartridge.frozen_keys.0"].shape[1],
        provenance=provenance,
    )


def _provenance(
    init: InitStrategy, material: Material | None, *, base_model: str, model: PreTrainedModel
) -> Provenance:
    corpus: dict[str, Any] = {}
    if material is not None:
        corpus["corpus"] = {"name": material.corpus_name, "tokens": len(material.corpus_ids)}
    return Provenance(
        base_model=base_model,
        fingerprint=Fingerprint.of_config(model.config),
        base=base_of(model),
        init=init.describe(),
        corpus_sha256="" if material is None else material.corpus_sha256,
        notes={"license": license_of(resolve(base_model))} | corpus,
    )
