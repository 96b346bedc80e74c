"""``lit-cartridges compose``: several cartridges as one."""

from __future__ import annotations

from lit_cartridges.cartridge import Cartridge
from lit_cartridges.command_line.parsers import CommandParser, option
from lit_cartridges.settings import WriteFolder
from lit_cartridges.terminal import printable_line


def main(args: list[str]) -> None:
    """Join cartridges of one model into a new folder."""
    parser = CommandParser(prog="lit-cartridges compose", description=main.__doc__)
    parser.add_argument("cartridges", nargs="+", help="folders or Hub repositories, in order")
    parser.add_argument("--output", type=option(WriteFolder), required=True, help="the folder to write")
    parser.add_argument(
        "--keep_sinks", action="store_true", help="keep every cartridge's sink, not the first's alone"
    )
    options = parser.parse_args(args)
    joined = Cartridge.compose(
        [Cartridge.from_pretrained(path) for path in options.cartridges], keep_sinks=options.keep_sinks
    )
    joined.save_pretrained(options.output)
    print(printable_line(f"{joined.num_tokens} positions in {options.output}"))
