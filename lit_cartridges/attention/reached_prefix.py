"""A prefix in front of a sliding-window layer: of a long one, only the end is within reach of any token, and is read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from lit_cartridges.attention.parts import PrefixPart


@dataclass(frozen=True)
class ReachedPrefix(PrefixPart):
    """A prefix of which no token sees the keys before ``first``; ``mask`` [1, 1, G·B·T, P - first] says who sees the rest."""

    first: int = 0

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        softcap: float | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `PrefixPart.attend`."""
        return super().attend(query, *self._reached(key, value), scale, softcap, self._bias(bias))

    def gradients(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        scale: float,
        softcap: float | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """See `PrefixPart.gradients`; those of what is out of reach are 0."""
        d_query, d_key, d_value, *d_bias = super().gradients(
            *(grad, query, *self._reached(key, value), out, lse, scale, softcap, self._bias(bias))
        )
        sides = (pad(x, (0, 0, self.first, 0)) for x in (d_key, d_value))
        return d_query, *sides, *(pad(x, (self.first, 0)) for x in d_bias)

    def _reached(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return key[:, :, self.first :], value[:, :, self.first :]

    def _bias(self, bias: Tensor | None) -> Tensor | None:
        return None if bias is None else bias[:, self.first :]
