"""``lit-cartridges compose``: several cartridges as one."""

from __future__ import annotations

from lit_cartridges.settings import WriteFolder, checked
from lit_cartridges.terminal import printable_line


@checked
def compose_command(cartridges: list[str], *, output: WriteFolder, keep_sinks: bool = False) -> None:
    """Join cartridges of one model into a new folder.

    Args:
        cartridges: folders or Hub repositories, in order.
        output: the folder to write.
        keep_sinks: keep every cartridge's sink, not the first's alone.
    """
    from lit_cartridges.cartridge import Cartridge

    joined = Cartridge.compose(
        [Cartridge.from_pretrained(path) for path in cartridges], keep_sinks=keep_sinks
    )
    joined.save_pretrained(output)
    print(printable_line(f"{joined.num_tokens} positions in {output}"))
