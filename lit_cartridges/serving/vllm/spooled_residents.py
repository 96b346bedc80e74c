"""Cartridges for vLLM's workers: loaded and checked as for the engine in process, and written where they read them."""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_cartridges.attention.rows_reading import Prefix
from lit_cartridges.serving.residents import Key, Resident, Residents
from lit_cartridges.serving.vllm.spool import is_lost, spool_file, write_spooled

_log = logging.getLogger(__name__)
_LATE_S = 120.0  # a request that was given up may still be in the engine's step, whose workers read the file
_MOST_FP8 = 448.0  # e4m3


@dataclass(eq=False, kw_only=True)
class SpooledResident(Resident):
    """
    Args:
        file: in the spool; None where the context is text.
        ids: what stands in the context in place of a cartridge.
    """

    file: Path | None = None
    ids: Sequence[int] = ()

    @property
    def name(self) -> str | None:
        """Of the file: drawn anew for each, so that nobody can guess it and no block of another is taken for its own."""
        return None if self.file is None else self.file.stem

    @property
    def lost(self) -> bool:
        """Whether a worker could not read the file."""
        return self.file is not None and is_lost(self.file)


class SpooledResidents(Residents):
    """See the module.

    Args:
        folder: where the files are; those that are dropped stay there for two minutes more.
        fp8: whether vLLM keeps keys and values in 8 bits.
    """

    def __init__(self, *given: Any, folder: Path, fp8: bool = False, **options: Any) -> None:
        super().__init__(*given, **options)
        self.folder, self.fp8 = folder, fp8
        self._dropped: deque[tuple[float, Path]] = deque()

    def _taken(self, key: Key) -> Resident | None:
        with self._lock:
            held = self._held.get(key)
            if isinstance(held, SpooledResident) and held.file and (held.lost or not held.file.exists()):
                self._drop(
                    key
                )  # and is written anew; what cleans a machine's folder for temporary files may have taken it
        return super()._taken(key)

    def _kept(self, key: Key, prefix: Prefix, nbytes: int) -> Resident:
        keys, values = prefix  # one with biases is refused by the shelf
        if self.fp8 and (largest := max(float(x.abs().max()) for x in (*keys, *values))) > _MOST_FP8:
            _log.warning(
                "%s holds numbers up to %.0f, and vLLM's cache of 8 bits (--kv-cache-dtype) none above %.0f times the scale that "
                "the model's files bring, 1 without one: its answers may be wrong",
                "+".join(name for name, _ in key),
                largest,
                _MOST_FP8,
            )
        file = spool_file(self.folder, secrets.token_hex(16))
        write_spooled(file, keys, values)
        tokens = keys[0].shape[-2]
        return self._hold(
            SpooledResident(key=key, prefix=([], []), num_tokens=tokens, nbytes=nbytes, file=file)
        )

    def _kept_corpus(self, key: Key, ids: Sequence[int]) -> Resident:
        # vLLM's own prefix cache holds it.
        return self._hold(
            SpooledResident(key=key, prefix=([], []), num_tokens=len(ids), nbytes=0, ids=list(ids))
        )

    def _drop(self, key: Key) -> None:
        resident = self._held[key]
        super()._drop(key)
        now = time.monotonic()
        if isinstance(resident, SpooledResident) and resident.file is not None:
            self._dropped.append((now + _LATE_S, resident.file))
        while self._dropped and self._dropped[0][0] <= now:
            self._dropped.popleft()[1].unlink(missing_ok=True)
