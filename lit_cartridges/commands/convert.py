"""``lit-cartridges convert``: cartridges from and for other systems."""

from __future__ import annotations

import argparse
import sys
import warnings

from lit_cartridges.terminal import printable, printable_line


def main(args: list[str]) -> None:
    """Turn a cartridge from one system's files into another's: ours, PEFT, HazyResearch, Tokasaurus.

    IN is recognised by its files. What OUT's format has no place for is said, line by line.
    """
    from lit_cartridges.command_line.parsers import CommandParser, option
    from lit_cartridges.errors import SettingError
    from lit_cartridges.formats import FORMATS, format_of, local_copy, named_format, with_base_model
    from lit_cartridges.formats.cartridge_format import DTYPES
    from lit_cartridges.settings import WritePath

    parser = CommandParser(
        prog="lit-cartridges convert",
        description=main.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats:\n" + "\n".join(f"  {name:<16}{known.looks}" for name, known in FORMATS.items()),
    )
    parser.add_argument("input", metavar="IN", help="folder or file to read, or a repository on the Hub")
    parser.add_argument(
        "output",
        metavar="OUT",
        type=option(WritePath),
        help="folder to write, or file where the format is one",
    )
    parser.add_argument("--to", required=True, choices=list(FORMATS), help="format of OUT")
    parser.add_argument(
        "--from",
        dest="source",
        choices=list(FORMATS),
        help="format of IN (default: the one that it looks like)",
    )
    parser.add_argument(
        "--base-model",
        help="model of the cartridge; its config is compared with the shapes in IN, and recorded",
    )
    parser.add_argument(
        "--dtype", choices=list(DTYPES), help="of the tensors in OUT (default: what its system writes)"
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="read a .pt or .bin file, by torch's weights-only loader; a file that asks for more is refused",
    )
    parser.add_argument(
        "--drop-bias",
        action="store_true",
        help="leave out a per-key bias, where OUT's format has no place for it",
    )
    options = parser.parse_args(args)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        path = local_copy(options.input)
        source = named_format(options.source) if options.source else format_of(path)
        cartridge = source.read(path, trust_pickle=options.trust_pickle)
        if options.base_model:
            try:
                cartridge = with_base_model(cartridge, options.base_model)
            except SettingError as error:
                raise SettingError(error.why, {"--base-model": options.base_model}) from error
        dtype = DTYPES[options.dtype] if options.dtype else None
        named_format(options.to).write(cartridge, options.output, dtype=dtype, drop_bias=options.drop_bias)
    for warning in told:
        print(printable(f"note: {warning.message}"), file=sys.stderr)
    if cartridge.provenance.fingerprint is None:
        print("note: shapes and rotary settings are unchecked; --base-model checks them", file=sys.stderr)
    converted = (
        f"{cartridge.num_tokens} positions ({cartridge.num_frozen_tokens} frozen) of "
        f"{cartridge.provenance.base_model or 'an unnamed model'}, {source.name} → {options.to}, in {options.output}"
    )
    print(printable_line(converted))
