"""``lit-cartridges estimate``: memory, work, hours and bytes of a run, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import Any, Literal

from lit_cartridges.settings import PositiveFloat, ReadPath, WriteJson, checked
from lit_cartridges.terminal import printable_line

ChipName = Literal["auto", "cpu", "h200", "h100", "a100", "a100-40gb", "l40s", "l4"]
"""`lit_cartridges.estimates.chips.CHOICES`, which needs torch."""


@checked
def estimate_command(
    *,
    chip: ChipName = "auto",
    recording: ReadPath | None = None,
    teacher_tokens_per_s: PositiveFloat | None = None,
    json: WriteJson | None = None,
    fit_arguments: Sequence[str] = (),
) -> None:
    """Say what a recipe's run will need in memory, hours and bytes, without starting it.

    Reads configs, tokenizer and corpus, and no weights. Says what it assumes, and what it does not know.

    All other options are those of fit: --config RECIPE, --data.corpus PATH, --model.model NAME, …

    Args:
        chip: what it shall run on; auto measures this machine for a second.
        recording: conversations whose lengths are taken, such as synthesize writes; by default those in the run's folder.
        teacher_tokens_per_s: what an OpenAITeacher's servers generate, all together.
        json: write all figures to this file.
    """
    told = estimate_recipe(
        list(fit_arguments), chip=chip, recording=recording, teacher_tokens_per_s=teacher_tokens_per_s
    )
    print(told_as_text(told))
    if json is not None:
        from lit_cartridges.runs.atomic_files import write_atomically

        Path(json).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(json), (dumps(told, indent=2) + "\n").encode())


def estimate_recipe(
    recipe_args: list[str],
    *,
    chip: str = "auto",
    recording: Path | str | None = None,
    teacher_tokens_per_s: float | None = None,
) -> dict[str, Any]:
    """The figures of `Estimate` under ``figures``, with ``model``, ``advice``, ``assumptions`` and ``unknown``.

    Args:
        recipe_args: options of ``fit``.
    """
    from lit_cartridges.estimates.chips import machine_of
    from lit_cartridges.estimates.estimate import estimate
    from lit_cartridges.estimates.recipe_numbers import read_recipe
    from lit_cartridges.estimates.run_numbers import LOCAL, SERVED

    recipe = read_recipe(recipe_args, recording=None if recording is None else Path(recording))
    run = recipe.run
    machine, assumed = machine_of(
        chip, recipe.shape, element_bytes=run.element_bytes, row_tokens=run.tokens_per_batch
    )
    found = estimate(
        recipe.shape,
        run,
        machine,
        teacher_shape=recipe.teacher_shape,
        teacher_tokens_per_s=teacher_tokens_per_s,
    )
    other = estimate(
        recipe.shape, replace(run, recompute=not run.recompute), machine, teacher_shape=recipe.teacher_shape
    )
    unknown = list(recipe.unknown)
    if found.generating_s is None:
        unknown.append("how fast the teacher's servers write: --teacher_tokens_per_s says so")
    if teacher_tokens_per_s is not None and run.teacher != SERVED:
        assumed.append(f"--teacher_tokens_per_s is of no use: the teacher is {run.teacher}")
    if run.teacher == LOCAL:
        assumed.append("the teacher decodes a group until its longest question or answer has ended")
    return {
        "model": recipe.model,
        "chip": chip,
        "processes": run.processes,
        "strategy": run.strategy,
        "teacher": run.teacher,
        "figures": {**asdict(found), "fits": found.fits},
        "advice": _advice(run.recompute, found, other),
        "assumptions": assumed + recipe.assumptions,
        "unknown": unknown,
    }


def told_as_text(told: dict[str, Any]) -> str:
    """A table, the assumptions, and what is not known."""
    from lit_cartridges.estimates.estimate import CHECKPOINTS
    from lit_cartridges.evals.table import bytes_text

    found = told["figures"]

    def size(value: float | None) -> str:
        return "not known" if value is None else bytes_text(round(value))

    local = told["teacher"] == "in process"
    rows = [
        ("memory of a device", ""),
        ("  frozen weights", size(found["weight_bytes"])),
        ("  cartridge, gradient, moments", size(found["cartridge_and_moments_bytes"])),
        ("  activations of a step", size(found["activation_bytes"])),
        ("  peak in training", size(found["training_peak_bytes"])),
        ("  peak in generating", size(found["generating_peak_bytes"]) if local else "elsewhere"),
        ("  there is", size(found["device_bytes"]) + ("" if found["fits"] else ": TOO LITTLE")),
        ("work", ""),
        ("  optimizer steps × packed rows of each", f"{found['optimizer_steps']:,} × {_per_step(found)}"),
        ("  conversations of a row", f"{found['conversations_per_row']:.1f}"),
        ("  conversations to make", f"{found['conversations']:,}"),
        ("  tokens read for each", f"{found['read_tokens_per_conversation']:,.0f}"),
        ("  tokens generated for each", f"{found['generated_tokens_per_conversation']:,.0f}"),
        ("  tokens trained on", f"{found['trained_tokens']:,.0f}"),
        ("  FLOPs of training", f"{found['training_flops']:.2e}"),
        ("  FLOPs of generating", f"{found['generating_flops']:.2e}" if local else "elsewhere"),
        ("time", ""),
        ("  generating", duration(found["generating_s"])),
        ("  training", duration(found["training_s"])),
        ("  both", duration(found["total_s"])),
        ("files", ""),
        ("  cartridge/", size(found["cartridge_file_bytes"])),
        ("  checkpoints/", f"{CHECKPOINTS} × {size(found['checkpoint_bytes'] / CHECKPOINTS)}"),
        ("  recording/", "at most " * found["recording_is_a_bound"] + size(found["recording_bytes"])),
    ]
    wide = max(len(name) for name, _ in rows)
    head = f"{told['model']} on {told['chip']}, {told['processes']} process(es), {told['strategy']}"
    lines = [head, *(f"{name:<{wide}}  {value}".rstrip() for name, value in rows)]
    lines += ["advice:", *(f"  - {one}" for one in told["advice"])] if told["advice"] else []
    lines += ["assumed:", *(f"  - {one}" for one in told["assumptions"])]
    lines += ["not in it:", *(f"  - {one}" for one in told["unknown"])]
    return "\n".join(printable_line(line) if line.strip() else line for line in lines)


def _advice(recompute: bool, found: Any, other: Any) -> list[str]:
    """Layers are run again where that is what it takes to fit, and nowhere else."""
    from lit_cartridges.evals.table import bytes_text

    if not other.fits or found.fits and not recompute:
        return []
    takes = f"training then takes {bytes_text(round(other.training_peak_bytes))}"
    if recompute:
        return [f"--model.gradient_checkpointing false: no layer need be run again, {takes}"]
    return [f"--model.gradient_checkpointing true: {takes}"]


def duration(seconds: float | None) -> str:
    """About how long, in one unit."""
    if seconds is None:
        return "not known"
    for unit_s, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.{0 if seconds >= 10 * unit_s else 1}f} {unit}"
    return f"{seconds:.0f} s"


def _per_step(found: dict[str, Any]) -> str:
    return f"{found['rows'] // found['optimizer_steps']:,}"
