"""A run's new cartridge: the init strategy looks at the run's corpus, model and teacher.

Data flow: data module → `init_context` → `InitStrategy.tensors` → `Cartridge` with its provenance.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.data import SelfStudyDataModule
from lit_cartridges.init import InitContext, InitStrategy
from lit_cartridges.models.base_weights import base_of
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.self_study.room import require_room

# Added to the seed for conversations that an init strategy looks at: neither trained on nor validated on.
_INIT_SEED = 2_000_003
# Few, so that a handful of conversations still comes from several parts of the corpus.
_CONVERSATIONS_PER_CHUNK = 4


def init_context(
    data: SelfStudyDataModule | None,
    model: PreTrainedModel,
    *,
    num_tokens: int,
    seed: int,
    progress: bool = False,
) -> InitContext:
    """What a strategy may look at in a run with ``data``, which is prepared, and whose teacher is bound.

    Raises:
        ValueError: no such data, or more positions than the model has.
    """
    if data is None or not hasattr(data, "renderer"):
        raise ValueError("a cartridge starts from a corpus: give the trainer a SelfStudyDataModule")
    return InitContext(
        model=model,
        context_ids=data.renderer.context_ids(data.corpus_ids),
        corpus_ids=data.corpus_ids.tolist(),
        num_tokens=num_tokens,
        seed=seed,
        renderer=data.renderer,
        self_study=_self_study(data, model, seed=seed, progress=progress),
        progress=progress,
    )


def new_cartridge(
    init: InitStrategy,
    context: InitContext,
    data: SelfStudyDataModule,
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
    provenance = _provenance(init, data, base_model=base_model, model=context.model)
    return Cartridge(keys, values, biases, num_frozen_tokens=num_frozen_tokens, provenance=provenance)


def checkpoint_cartridge(
    checkpoint: Path,
    init: InitStrategy,
    data: SelfStudyDataModule,
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
    layers = range(sum(name.startswith("cartridge.frozen_keys.") for name in state))
    if not layers:
        raise ValueError(f"the checkpoint {checkpoint} holds no cartridge; give one of a run of LitCartridge")

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
        provenance=_provenance(init, data, base_model=base_model, model=model),
    )


def _provenance(
    init: InitStrategy, data: SelfStudyDataModule, *, base_model: str, model: PreTrainedModel
) -> Provenance:
    return Provenance(
        base_model=base_model,
        fingerprint=Fingerprint.of_config(model.config),
        base=base_of(model),
        init=init.describe(),
        corpus_sha256=data.corpus.sha256,
    )


def _self_study(
    data: SelfStudyDataModule, model: PreTrainedModel, *, seed: int, progress: bool
) -> Callable[[int], list[list[int]]]:
    """Makes conversations as the data module would, apart from its stream: they are not recorded, and take nothing
    from what is trained on. All are about the corpus, and (seed, number) decides each."""

    def conversations(wanted: int) -> list[list[int]]:
        synthesizer = data.synthesizer(seed=seed + _INIT_SEED)
        synthesizer.conversations_per_group = min(
            synthesizer.conversations_per_group, _CONVERSATIONS_PER_CHUNK
        )
        synthesizer.off_corpus_share, synthesizer.top_k = 0.0, 0
        require_room(synthesizer, model.config)
        made: list[list[int]] = []
        with SteadyBar(total=wanted, desc="conversations", disable=not progress, leave=False) as bar:
            for group in count():
                if len(made) >= wanted:
                    break
                group_ids = [
                    data.renderer.conversation_ids(conversation.messages)[0].tolist()
                    for conversation in synthesizer.conversations(group)
                ]
                made += group_ids
                bar.update(len(group_ids))
        return made[:wanted]

    return conversations
