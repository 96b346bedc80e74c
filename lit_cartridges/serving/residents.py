"""Cartridges that the engine may read: whole files, on the model's device, no more of them than their bytes allow.

A request takes what it reads, and gives it back when its last row has left the batch. What nobody has taken stays until room is
wanted, and goes in the order of its last use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.attention.rows_reading import Prefix
from lit_cartridges.cartridge import Cartridge
from lit_cartridges.cartridge_files.description import not_finite
from lit_cartridges.cartridge_files.folder import TENSORS
from lit_cartridges.errors import CartridgesError
from lit_cartridges.models.base_weights import base_of, digest_of
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.provenance import Fingerprint
from lit_cartridges.serving.metrics import Metrics
from lit_cartridges.serving.refusals import Refusal
from lit_cartridges.serving.shelf import Shelf, Shelved, Stamp, stamp_of

ICL = ":icl"
_TRIES = 3  # a file may be replaced while it is read
Key = tuple[tuple[str, Stamp], ...]


@dataclass(eq=False, kw_only=True)
class Resident:
    """A cartridge, or several as one.

    Args:
        prefix: keys, values and biases, as the model reads them (see `Prefix`).
        users: requests that have taken it.
    """

    key: Key
    prefix: Prefix
    num_tokens: int
    nbytes: int
    users: int = 0


class Residents:
    """See the module; threads may share one.

    Args:
        max_bytes: of keys and values.
        corpora: by their sha256, the corpora of cartridges as the model reads them in its context; NAME:icl is the prefill of
            that of the cartridge NAME.
    """

    def __init__(
        self,
        shelf: Shelf,
        model: Any,
        *,
        max_bytes: int,
        metrics: Metrics,
        corpora: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.shelf, self.model, self.max_bytes, self.metrics = shelf, model, max_bytes, metrics
        self.corpora = corpora or {}
        shape = Fingerprint.of_config(model.config)
        numbers = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
        self.bytes_per_token = numbers * model.dtype.itemsize
        self._held: OrderedDict[Key, Resident] = OrderedDict()
        self._lock, self._loading = Lock(), Lock()

    @property
    def nbytes(self) -> int:
        """Of all that is held."""
        return sum(resident.nbytes for resident in list(self._held.values()))

    def take(self, names: Sequence[str]) -> Resident:
        """The cartridges of these names, composed in their order where they are several; to be given back by `give_back`.

        Raises:
            Refusal: one of them is not there, cannot be served, or does not go with the others; or there is no room for it.
        """
        if len(names) == 1 and names[0].endswith(ICL):
            return self._take_corpus(names[0])
        for _ in range(_TRIES):
            parts = [self.shelf.find(name) for name in names]
            key = tuple((one.name, one.stamp) for one in parts)
            if (resident := self._taken(key)) is not None:
                return resident
            with self._loading:  # one at a time: loading needs a few times the memory
                if (resident := self._taken(key)) is not None:
                    return resident
                self._make_room(sum(one.facts.num_tokens for one in parts) * self.bytes_per_token)
                loaded = self._load(parts)
                if loaded is not None:
                    nbytes = loaded.nbytes // 4 * self.model.dtype.itemsize  # held in fp32 until here
                    self._make_room(nbytes)
                    where = {"dtype": self.model.dtype, "device": self.model.device}
                    sides = *loaded.tensors(**where), loaded.biases(device=self.model.device)
                    return self._kept(
                        key, tuple([x.detach() for x in side] for side in sides if side), nbytes
                    )
        raise Refusal(
            f"{'+'.join(names)} is being replaced again and again; ask later",
            status=503,
            code="cartridge_changing",
        )

    def give_back(self, resident: Resident) -> None:
        """See `take`."""
        with self._lock:
            resident.users -= 1

    def _taken(self, key: Key) -> Resident | None:
        with self._lock:
            if (resident := self._held.get(key)) is not None:
                resident.users += 1
                self._held.move_to_end(key)
                self.metrics.hits.inc()
            return resident

    def corpus_of(self, one: Shelved) -> Sequence[int] | None:
        """Its corpus as the model reads it in its context, where that is known."""
        return self.corpora.get(one.facts.corpus_sha256)

    def _take_corpus(self, name: str) -> Resident:
        one = self.shelf.find(name.removesuffix(ICL))
        ids = self.corpus_of(one)
        if ids is None:
            raise Refusal(
                f"the corpus of {one.name!r} is not here, or does not fit the model; start the server with --corpora",
                status=404,
                param="model",
                code="model_not_found",
            )
        key = ((f"{one.facts.corpus_sha256}{ICL}", (0, 0, 0)),)
        with self._loading:
            if (resident := self._taken(key)) is not None:
                return resident
            return self._kept_corpus(key, ids)

    def _load(self, parts: Sequence[Shelved]) -> Cartridge | None:
        """None where a file changed meanwhile."""
        try:
            first, *more = (Cartridge.from_pretrained(one.folder) for one in parts)
            cartridge = Cartridge.compose([first, *more]) if more else first
            if any(stamp_of(one.folder / TENSORS) != one.stamp for one in parts):
                return None
            cartridge.require_fit(self.model)
        except FileNotFoundError:
            return None
        except (CartridgesError, ValueError) as error:
            if any(not self._is_there(one) for one in parts):
                return None
            raise Refusal(self.shelf.plainly(error), param="model", code="bad_cartridge") from error
        if (where := not_finite(cartridge, self.model.dtype)) is not None:
            raise Refusal(
                f"{where}; a model that reads them answers nonsense", param="model", code="bad_cartridge"
            )
        return cartridge

    def _is_there(self, one: Shelved) -> bool:
        try:
            return stamp_of(one.folder / TENSORS) == one.stamp
        except OSError:
            return False

    def _kept_corpus(self, key: Key, ids: Sequence[int]) -> Resident:
        nbytes = len(ids) * self.bytes_per_token
        self._make_room(nbytes)
        return self._kept(key, prefill(self.model, ids), nbytes)

    def _kept(self, key: Key, prefix: Prefix, nbytes: int) -> Resident:
        tokens = prefix[0][0].shape[-2]
        return self._hold(Resident(key=key, prefix=prefix, num_tokens=tokens, nbytes=nbytes))

    def _hold(self, resident: Resident) -> Resident:
        with self._lock:
            self._held[resident.key] = resident
            resident.users += 1
        self.metrics.loads.inc()
        return resident

    def _drop(self, key: Key) -> None:
        del self._held[key]

    def _make_room(self, nbytes: int) -> None:
        if nbytes > self.max_bytes:
            raise Refusal(
                f"its {nbytes:,} bytes are more than this server holds ({self.max_bytes:,}); it must be started with a larger "
                "--max_cartridge_gb",
                param="model",
                code="cartridge_too_large",
            )
        with self._lock:
            for key in [key for key, one in self._held.items() if one.users == 0]:
                if self.nbytes + nbytes <= self.max_bytes:
                    break
                self._drop(key)
        if self.nbytes + nbytes > self.max_bytes:
            raise Refusal(
                "all memory for cartridges is in use by requests that are being answered; ask later",
                status=503,
                code="cartridges_busy",
            )

    @property
    def count(self) -> int:
        """Cartridges and compositions that are held."""
        return len(self._held)


def unreadable_by(
    model: Any, *, biases: bool = True, system_template: str = "{chunk}", enable_thinking: bool = False
) -> Any:
    """Why the engine cannot read a cartridge from the shelf with this model, as `Shelf` asks it; None where it can.

    Args:
        biases: whether the engine reads a bias per key.
        system_template, enable_thinking: of the prompts, which must be those of the training, where that is known.
    """
    prompts = {"system_template": system_template, "enable_thinking": str(enable_thinking)}
    fingerprint, limit = Fingerprint.of_config(model.config), max_positions(model.config)
    digest = base_of(model).get("digest", "")

    def why(shelved: Shelved) -> str | None:
        known = shelved.provenance
        if known.fingerprint is not None and (differences := known.fingerprint.differences(fingerprint)):
            return (
                f"it was made for another model ({known.base_model or 'not named'}): {'; '.join(differences)}"
            )
        if digest and digest_of(known) and digest_of(known) != digest:
            return (
                f"it was made with the weights of {known.base_model!r} (digest {digest_of(known)[:12]}), and the model has "
                f"others of the same shapes ({digest[:12]})"
            )
        for name, value in prompts.items():
            trained = shelved.facts.settings.get(f"data.{name}", value)
            if trained != value:
                return (
                    f"it was trained with data.{name}={trained!r}; start the server with --{name} {trained!r}"
                )
        if shelved.facts.has_biases and not biases:
            return (
                "it has a bias per key, and no attention of vLLM's has one; serve it with --engine local, or fit it with "
                "--model.init.bias false"
            )
        if limit is not None and shelved.facts.num_tokens >= limit:
            return f"its {shelved.facts.num_tokens} positions leave none to ask at: the model has {limit}"
        return None

    return why
