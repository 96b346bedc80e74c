"""vLLM's side: a KV connector, which is imported in vLLM's processes (`--kv-transfer-config`).

The placeholders in front of a prompt count as computed elsewhere; before the step that first needs them, their keys and values
are written into the blocks that the scheduler has given them, by ``do_kv_cache_update`` of the attention backend, which knows its
own layout. Nothing waits layer by layer, so full CUDA graphs stay usable, and vLLM's ``attn_metadata`` is not looked at.

A worker that cannot read a cartridge fails that one request. vLLM takes this as block ids, which it cannot tell apart where a
model has several groups of layers (sliding windows): there the file is marked as lost, and `VLLMEngine`, which looks for the mark
before it hands a token on, fails the request. Nobody reads those blocks again, since the cartridge's next file has another name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)
from vllm.logger import init_logger
from vllm.model_executor.models.utils import extract_layer_index

from lit_cartridges.serving.vllm.placement import heads_of, slots
from lit_cartridges.serving.vllm.spool import OpenCartridges, mark_lost
from lit_cartridges.serving.vllm.wanted import Load, Wanted

MARK = "lit_cartridges:"
_log = init_logger("vllm.lit_cartridges")  # vLLM shows what stands below its own name
_KINDS = ("FullAttentionSpec", "SlidingWindowSpec")
_PARALLEL = (
    *("pipeline_parallel_size", "data_parallel_size"),
    *("prefill_context_parallel_size", "decode_context_parallel_size"),
)


@dataclass
class Loads(KVConnectorMetadata):
    """Of one step."""

    loads: list[Load]


class CartridgeConnector(KVConnectorBase_V1, SupportsHMA):
    """See the module. Its extra config: ``folder`` of the files, ``max_bytes`` of those that a worker keeps open, and the
    shape of all cartridges: ``num_layers``, ``num_kv_heads``, ``head_dim``."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        given = self._kv_transfer_config.kv_connector_extra_config
        self._shape = {name: int(given[name]) for name in ("num_layers", "num_kv_heads", "head_dim")}
        _require_served(vllm_config, kv_cache_config, self._shape["num_layers"])
        self._wanted = Wanted()
        self._files = OpenCartridges(Path(given["folder"]), max_bytes=int(given["max_bytes"]))
        self._failed: set[int] = set()

    # The scheduler's side.

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """See vLLM's. Prompts whose log-probabilities are asked for, which vLLM computes anew, are refused by the server."""
        tokens, given = request.num_prompt_tokens, request.kv_transfer_params
        return self._wanted.matched(given, prompt_tokens=tokens, computed=num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """See vLLM's; called again after a preemption."""
        self._wanted.allocated(
            request.kv_transfer_params,
            prompt_tokens=request.num_prompt_tokens,
            external=num_external_tokens,
            block_ids=blocks.get_block_ids(),
        )

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        """See vLLM's."""
        return Loads(self._wanted.take())

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        """See vLLM's: the blocks are the scheduler's, as all others."""
        return False, None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        """See `request_finished`."""
        return False, None

    # The workers' side.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """See vLLM's; refuses a model whose layers cannot be written to.

        Raises:
            ValueError: which.
        """
        processes = self._vllm_config.parallel_config.tensor_parallel_size
        rank = get_tensor_model_parallel_rank()
        self._heads = heads_of(rank, processes=processes, heads=self._shape["num_kv_heads"])
        layers = self._vllm_config.compilation_config.static_forward_context
        for group in self._kv_cache_config.kv_cache_groups:
            for name in group.layer_names:
                _require_writable(name, layers[name], self._heads, self._shape["head_dim"])

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write the positions of this step's requests."""
        for load in self._get_connector_metadata().loads:
            try:
                self._write(load, forward_context.no_compile_layers)
            except Exception:
                _log.exception("%s the cartridge of a request cannot be read", MARK)
                if len(load.block_ids) > 1:
                    mark_lost(self._files.folder, load.name)
                else:
                    self._failed.update(load.block_ids[0])

    def _write(self, load: Load, layers: dict[str, Any]) -> None:
        groups = self._kv_cache_config.kv_cache_groups
        for group, block_ids in zip(groups, load.block_ids, strict=True):
            first, places = slots(
                block_ids, block_size=group.kv_cache_spec.block_size, start=load.start, stop=load.stop
            )
            if not len(places):
                continue
            for name in group.layer_names:
                layer, index = layers[name], extract_layer_index(name)
                cache = layer.kv_cache
                read = self._files.read(load.name, index, start=first, stop=load.stop, heads=self._heads)
                key, value = (side.to(cache.device) for side in read)
                layer.impl.do_kv_cache_update(layer, key, value, cache, places.to(cache.device))

    def get_block_ids_with_load_errors(self) -> set[int]:
        """See vLLM's."""
        failed, self._failed = self._failed, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: all is written before the step begins."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""


def _require_served(vllm_config: Any, kv_cache_config: Any, num_layers: int) -> None:
    if vllm_config.speculative_config is not None:
        raise ValueError(
            f"{MARK} speculative decoding is not served: a draft model has no keys and values of a cartridge; leave "
            "--speculative-config out"
        )
    for name in _PARALLEL:
        if (value := getattr(vllm_config.parallel_config, name, 1)) != 1:
            option = name.replace("_", "-")
            raise ValueError(
                f"{MARK} --{option} {value} is not served; leave it out, and spread layers by tensor parallelism"
            )
    found: list[int] = []
    for group in kv_cache_config.kv_cache_groups:
        if (kind := type(group.kv_cache_spec).__name__) not in _KINDS:
            raise ValueError(f"{MARK} layers that keep {kind} are not served, such as {group.layer_names[0]}")
        found += _indices(group.layer_names)
    if sorted(found) != list(range(num_layers)):
        raise ValueError(
            f"{MARK} a cartridge has {num_layers} layers, and vLLM keeps keys and values of {sorted(found)}"
        )


def _indices(names: Iterable[str]) -> list[int]:
    return [extract_layer_index(name) for name in names]


def _require_writable(name: str, layer: Any, heads: slice, head_dim: int) -> None:
    if not hasattr(layer.impl, "do_kv_cache_update"):
        raise ValueError(
            f"{MARK} vLLM's attention backend {type(layer.impl).__name__} cannot be written to; choose another by "
            "--attention-backend"
        )
    if getattr(layer, "kv_sharing_target_layer_name", None) is not None:
        raise ValueError(f"{MARK} {name} shares keys and values with another layer, which is not served")
    ours, theirs = (heads.stop - heads.start, head_dim), (layer.num_kv_heads, layer.head_size)
    if ours != theirs:
        raise ValueError(
            f"{MARK} {name} has {theirs[0]} heads of {theirs[1]}, and cartridges {ours[0]} of {ours[1]}"
        )
