"""``lit-cartridges synthesize``: conversations by a recipe, without training."""

from __future__ import annotations

from collections.abc import Sequence

from lit_cartridges.errors import SettingError
from lit_cartridges.settings import Count, WriteParquet, checked
from lit_cartridges.terminal import printable_line


@checked
def synthesize_command(
    *, output: WriteParquet, num_conversations: Count = 256, fit_arguments: Sequence[str] = ()
) -> int:
    """Write the conversations that a recipe would train on to a Parquet file.

    They are kept group by group in a folder beside the file, so an interrupted run goes on where it stopped.

    All other options are those of fit: --config RECIPE, --data.corpus PATH, --model.model NAME, …

    Args:
        output: the .parquet file to write.
        num_conversations: about how many.

    Returns:
        Their number.
    """
    from lit_cartridges.cartridge_cli import CartridgeCLI
    from lit_cartridges.conversations.recording import Recording
    from lit_cartridges.data import SelfStudy
    from lit_cartridges.runs.steady_bar import SteadyBar

    cli = CartridgeCLI.run_with(list(fit_arguments), run=False)
    data, module = cli.datamodule, cli.model
    source = data.source
    if not isinstance(source, SelfStudy):
        raise SettingError(
            "makes no conversations; leave it at SelfStudy", {"data.source": type(source).__name__}
        )
    module.connect(data)
    synthesizer = source.synthesizer(seed=data.seed)
    source.teacher.prepare()
    loads = source.teacher.runs_model and source.teacher_device is None
    source.bind_teacher(module.load_teacher() if loads else None)
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
        missing = [group for group in range(groups) if group not in parts]
        bar.update((groups - len(missing)) * source.conversations_per_group)
        for group, made in zip(missing, synthesizer.conversations_of(missing), strict=True):
            parts.append(group, made)
            bar.update(source.conversations_per_group)
            bar.set_postfix(synthesizer.counts, refresh=False)
    source.close()
    written = parts.compact(output)
    print(printable_line(f"{written} conversations in {output}"))
    return written
