"""A model that is not there, in one sentence: what the Hub's client says of it is a page, or a minute of waiting."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lit_cartridges.files.content import one_line


def unreachable(place: str, *, file: str) -> str | None:
    """Why what ``place`` names cannot be read, where that can be told at once; None where only trying tells.

    Args:
        place: a folder, or an id on the Hub.
        file: what it must hold.
    """
    if Path(place).is_dir():
        return None if Path(place, file).is_file() else f"the folder holds no {file}"
    if Path(place).exists():
        return "is a file; give a folder, or an id on the Hub"
    try:
        validate_repo_id(place)
    except HFValidationError:
        return "there is no such folder, and it is no id on the Hub"
    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(place, file), str) or getproxies():
        return None
    host = urlsplit(os.environ.get("HF_ENDPOINT", constants.ENDPOINT)).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return f"there is no such folder, and the Hub ({host}) cannot be reached to look for it there"
    return None


def refusal(error: Exception, endpoint: str | None = None) -> str:
    """What the Hub's client says of a request that failed, in a sentence with what would work."""
    host = urlsplit(endpoint or os.environ.get("HF_ENDPOINT", constants.ENDPOINT)).netloc
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        why = "knows no token of ours" if status == 401 else "does not let our token do that"
        return (
            f"{host} {why} ({status}); log in by `hf auth login`, set HF_TOKEN, or give token=…, one that may"
        )
    if status == 404:
        return f"{host} has nothing of that name for us (404); mind the spelling, or give the token of somebody who sees it"
    return f"{host}: {one_line(error)}"


def license_on_hub(api: Any, model: str) -> str:
    """The licence that a model's page on the Hub names; nothing where it cannot be asked, or names none."""
    try:
        validate_repo_id(model)
        return str(getattr(api.model_info(model).card_data, "license", None) or "")
    except Exception:  # nothing hangs on it
        return ""
