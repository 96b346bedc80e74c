"""The model that vLLM serves, as far as this process must know it: its config and settings, and no weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig

from lit_cartridges.errors import SettingError
from lit_cartridges.models.base_weights import note_base
from lit_cartridges.models.loading import base_facts
from lit_cartridges.models.position_limit import max_positions, rotates_by_length
from lit_cartridges.models.readable import require_readable
from lit_cartridges.strategies.frozen_models import FrozenModel
from lit_cartridges.teachers.vllm_engine import served_files

# What a model's makers may forbid or force in generation_config.json, that the engine in process does and vLLM is not told.
_LIMITS = (
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias"),
    *("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty"),
)
_INSTEAD = "serve it with --engine local: vLLM serves plain models"


class UnloadedModel:
    """What `Service` and `Residents` ask of a model.

    Raises:
        SettingError: vLLM would compute it otherwise than the engine in process.
    """

    def __init__(self, model: FrozenModel) -> None:
        served_files(model, instead=_INSTEAD)
        config = model.config()
        require_readable(config)
        place = model.place()
        self.config: PretrainedConfig = config
        self.config._name_or_path = model.name
        try:
            self.generation_config = GenerationConfig.from_pretrained(
                place.source, revision=place.revision or "main", token=model.token
            )
        except OSError:  # it brings none
            self.generation_config = GenerationConfig.from_model_config(config)
        self.device = torch.device("cpu")
        # vLLM would take a half precision for "auto", whatever the files hold.
        loaded = getattr(config.get_text_config(), "dtype", None) or "float32"
        name = (str(loaded) if model.dtype == "auto" else model.dtype).removeprefix("torch.")
        self.dtype: torch.dtype = getattr(torch, name)
        self._require_same_answers(model)
        own: Any = self
        note_base(own, base_facts(place, revision=model.revision, dtype=self.dtype, config=config))

    @property
    def dtype_name(self) -> str:
        """As vLLM takes it."""
        return str(self.dtype).removeprefix("torch.")

    def bound(self, positions: int) -> None:
        """Have no more positions than these."""
        self.config = copy.deepcopy(self.config)
        text = self.config.get_text_config()
        text.max_position_embeddings = min(positions, max_positions(self.config) or positions)

    def _require_same_answers(self, model: FrozenModel) -> None:
        what = None
        if rotates_by_length(self.config):
            what = "has rotary positions that depend on the length of what is read, which vLLM decides once for all requests"
        for name in _LIMITS:
            if (value := getattr(self.generation_config, name, None)) not in (None, [], {}):
                what = f"bans or forces tokens ({name}={str(value)[:60]} in generation_config.json), of which vLLM is not told"
        if what is not None:
            raise SettingError(f"{what}; serve it with --engine local", {model.setting: model.name})
