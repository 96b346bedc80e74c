"""``lit-cartridges synthesize``: conversations by a recipe, without training."""

from __future__ import annotations

from pathlib import Path

from lit_cartridges.command_line.parsers import CommandParser, option
from lit_cartridges.conversations.recording import Recording
from lit_cartridges.errors import SettingError
from lit_cartridges.runs.steady_bar import SteadyBar
from lit_cartridges.settings import Count, WriteParquet
from lit_cartridges.terminal import printable_line


def main(args: list[str]) -> None:
    """Write the conversations that a recipe would train on to a Parquet file.

    They are kept group by group in a folder beside the file, so an interrupted run goes on where it stopped.
    """
    parser = CommandParser(
        prog="lit-cartridges synthesize",
        description=main.__doc__,
        epilog="All other options are those of fit: --config RECIPE, --data.corpus PATH, --model.model NAME, …",
    )
    parser.add_argument(
        "--output", type=option(WriteParquet), required=True, help="the .parquet file to write"
    )
    parser.add_argument(
        "--num_conversations", type=option(Count), default=256, help="about how many (default: %(default)s)"
    )
    ours, rest = parser.parse_known_args(args)
    synthesize(rest, output=ours.output, num_conversations=ours.num_conversations)


def synthesize(recipe_args: list[str], *, output: Path, num_conversations: int) -> int:
    """Make the conversations and write them to ``output``; returns their number."""
    from lit_cartridges.cartridge_cli import CartridgeCLI
    from lit_cartridges.data import SelfStudy

    cli = CartridgeCLI.run_with(recipe_args, run=False)
    data, module = cli.datamodule, cli.model
    source = data.source
    if not isinstance(source, SelfStudy):
        raise SettingError(
            "makes no conversations; leave it at SelfStudy", {"data.source": type(source).__name__}
        )
    module.connect(data)
    synthesizer = source.synthesizer(seed=data.seed)
    source.bind_teacher(module.load_teacher() if source.teacher.runs_model else None)
    parts = Recording(
        output.with_suffix(".parts"),
        tokenizer=module.tokenizer,
        settings=synthesizer.settings,
        vocab_size=data.student.vocab_size,
    )
    groups = -(-num_conversations // source.conversations_per_group)
    with SteadyBar(
        total=groups * source.conversations_per_group, desc="conversations", dynamic_ncols=True
    ) as bar:
        for group in range(groups):
            if group not in parts:
                parts.append(group, synthesizer.conversations(group))
            bar.update(source.conversations_per_group)
            bar.set_postfix(synthesizer.counts, refresh=False)
    source.close()
    written = parts.compact(output)
    print(printable_line(f"{written} conversations in {output}"))
    return written
