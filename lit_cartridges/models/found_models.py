"""A model that is not there, in one sentence: what the Hub's client says of it is a page, or a minute of waiting."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


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
