"""``lit-cartridges convert``: cartridges from and for other systems."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from lit_cartridges.errors import SettingError
from lit_cartridges.settings import Check, WritePath, checked
from lit_cartridges.terminal import printable, printable_line


class KnownFormat(Check):
    """A name of `lit_cartridges.formats.FORMATS`."""

    def problem(self, value: Any) -> str | None:
        """See `Check.problem`."""
        from lit_cartridges.formats import FORMATS

        return None if value in FORMATS else f"must be one of {', '.join(FORMATS)}"


FormatName = Annotated[str, KnownFormat()]


@checked
def convert_command(
    input: str,
    output: WritePath,
    *,
    to: FormatName,
    from_: FormatName | None = None,
    base_model: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    trust_pickle: bool = False,
    drop_bias: bool = False,
) -> None:
    """Turn a cartridge from one system's files into another's: ours, PEFT, HazyResearch, Tokasaurus; or llama.cpp's, one way.

    INPUT is recognised by its files: lit_cartridges by cartridge.safetensors, peft by adapter_config.json, tokasaurus by
    config.yaml and cartridge.pt, hazyresearch by the name cache*.pt. What OUTPUT's format has no place for is said, line by line.

    Args:
        input: folder or file to read, or a repository on the Hub.
        output: folder to write, or file for hazyresearch and llamacpp.
        to: format of OUTPUT: lit_cartridges, peft, tokasaurus, hazyresearch or llamacpp (docs/llamacpp.md).
        from_: format of INPUT; by default the one that it looks like.
        base_model: model of the cartridge; its config is compared with the shapes in INPUT, and recorded.
        dtype: of the tensors in OUTPUT; by default what its system writes.
        trust_pickle: read a .pt or .bin file, by torch's weights-only loader; a file that asks for more is refused.
        drop_bias: leave out a per-key bias, where OUTPUT's format has no place for it.
    """
    from lit_cartridges.formats import format_of, local_copy, named_format, with_base_model
    from lit_cartridges.formats.cartridge_format import DTYPES

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        path = local_copy(input)
        source = named_format(from_) if from_ else format_of(path)
        cartridge = source.read(path, trust_pickle=trust_pickle)
        if base_model:
            try:
                cartridge = with_base_model(cartridge, base_model)
            except SettingError as error:
                raise SettingError(error.why, base_model=base_model) from error
        named_format(to).write(
            cartridge, Path(output), dtype=DTYPES[dtype] if dtype else None, drop_bias=drop_bias
        )
    for warning in told:
        print(printable(f"note: {warning.message}"), file=sys.stderr)
    if cartridge.provenance.fingerprint is None:
        print("note: shapes and rotary settings are unchecked; --base_model checks them", file=sys.stderr)
    converted = (
        f"{cartridge.num_tokens} positions ({cartridge.num_frozen_tokens} frozen) of "
        f"{cartridge.provenance.base_model or 'an unnamed model'}, {source.name} → {to}, in {output}"
    )
    print(printable_line(converted))
