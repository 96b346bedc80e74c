"""How ``lit-cartridges chat`` is told to load its model; `evaluate` and the others have the same settings as arguments."""

from __future__ import annotations

import argparse
import json
from typing import Any, TypeVar

from lit_cartridges.settings import problem
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig

T = TypeVar("T")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--revision``, ``--token``, ``--trust_remote_code``, ``--device_map``, ``--quantization_config``."""
    parser.add_argument(
        "--revision", help="branch, tag or commit of the model on the Hub (default: the cartridge's)"
    )
    parser.add_argument(
        "--token", help="for private and gated models of the Hub, where HF_TOKEN does not hold it"
    )
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run code that comes with the model, if it needs that",
    )
    parser.add_argument(
        "--device_map", type=_text_or_mapping, help='"auto", or JSON with a device per module'
    )
    parser.add_argument(
        "--quantization_config",
        type=_quantisation,
        help='JSON as transformers takes it: {"load_in_4bit": true} (default: the cartridge\'s)',
    )


def model_options(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of them, as `load_model` takes it."""
    return {
        "revision": options.revision,
        "token": options.token,
        "trust_remote_code": options.trust_remote_code,
        "device_map": options.device_map,
        "quantization_config": options.quantization_config,
    }


def _text_or_mapping(text: str) -> str | dict[str, Any]:
    value = _mapping(text) if text.lstrip().startswith("{") else text
    return _checked(value, DeviceMap)


def _quantisation(text: str) -> dict[str, Any]:
    return _checked(_mapping(text), QuantizationConfig)


def _checked(value: T, hint: Any) -> T:
    if (why := problem(value, hint)) is not None:
        raise argparse.ArgumentTypeError(f"{value!r}: {why}")
    return value


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object; write it as '{{\"name\": value}}'")
    return value
