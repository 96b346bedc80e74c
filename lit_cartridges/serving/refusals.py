"""Why a request is not answered, as OpenAI's clients read it."""

from __future__ import annotations

from typing import Any

from lit_cartridges.errors import CartridgesError

_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refusal(CartridgesError):
    """An answer other than 200.

    Args:
        status: of HTTP.
        param: the field of the body that is to blame.
        code: a word that programs, and the metrics, know it by.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    @property
    def body(self) -> dict[str, Any]:
        """In OpenAI's form."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}


def field_refusal(name: str, why: str) -> Refusal:
    """400 for a field of the body."""
    return Refusal(f"{name}: {why}", param=name, code="invalid_value")
