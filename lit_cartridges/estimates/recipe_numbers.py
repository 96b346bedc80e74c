"""The numbers of a recipe: the one place that reads them off the settings of module, data and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.cli import LightningCLI

from lit_cartridges.cartridge_cli import CartridgeCLI
from lit_cartridges.command_line.trainer_settings import require_trainer
from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.renderer import user
from lit_cartridges.data import RawCorpus, Recorded, SelfStudy
from lit_cartridges.data.sources import Source
from lit_cartridges.errors import SettingError, called
from lit_cartridges.estimates.lengths import Lengths
from lit_cartridges.estimates.run_numbers import LOCAL, NONE, SERVED, RunNumbers
from lit_cartridges.estimates.shapes import Shape, ShapeError
from lit_cartridges.models.loading import model_classes
from lit_cartridges.models.readable import require_readable
from lit_cartridges.runs.run_progress import optimizer_steps
from lit_cartridges.self_study.seed_prompts import resolve_seed_prompts
from lit_cartridges.teachers.local import LocalTeacher
from lit_cartridges.teachers.vllm import VLLM

_DRAWS = 2000
_ELSEWHERE = ("accelerator", "devices", "num_nodes", "plugins")  # of the machine that the run is for
_BUILT = {"strategy": "auto", "callbacks": None, "plugins": None, "profiler": None}


class RecipeCLI(CartridgeCLI):
    """Parses as ``fit`` does and builds module and data, but no trainer: the run may be for another machine."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Refuses what `CartridgeCLI` does, but for devices that this machine lacks."""
        LightningCLI.parse_arguments(self, parser, args)
        told = self.config.trainer.as_dict()
        require_trainer({name: told[name] for name in told if name not in _ELSEWHERE}, training=True)

    def instantiate_classes(self) -> None:
        """Module and data; what the trainer would be built of stays as it was told."""
        self.told = self.config.trainer.as_dict()
        for name, value in _BUILT.items():
            self.config[f"trainer.{name}"] = value
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The settings alone."""
        return SimpleNamespace(**self.told, datamodule=self.datamodule)


@dataclass(frozen=True, kw_only=True)
class RecipeNumbers:
    """A recipe in numbers.

    Attributes:
        shape, teacher_shape: of the student, and of another model that teaches in process.
        assumptions: what was taken for granted, a sentence each.
        unknown: what the estimate leaves out.
    """

    model: str
    shape: Shape
    teacher_shape: Shape | None
    run: RunNumbers
    assumptions: list[str]
    unknown: list[str]


def read_recipe(args: list[str], *, recording: Path | None = None) -> RecipeNumbers:
    """Of the options of ``fit``; reads configs, tokenizer and corpus, and no weights.

    Args:
        recording: conversations whose lengths are taken; by default those in the run's folder, if there are any.

    Raises:
        ModelError, SettingError, CorpusError: as ``fit`` would.
    """
    cli: Any = RecipeCLI.run_with(args, run=False)
    module, data = cli.model, cli.datamodule
    config, trainer = module.model_config, cli.trainer
    require_readable(config)
    module.connect(data)
    material, source, objective = module.material, data.source, module.objective
    assumptions: list[str] = []
    unknown: list[str] = []
    shape, weights = _model(module._student, assumptions)
    teacher_shape = None
    teacher = _teacher(source)
    if module._teacher is not None and (teacher == LOCAL or objective.needs_teacher_hidden):
        teacher_shape, more = _model(module._teacher, assumptions)
        weights += more
    processes, strategy = _processes(trainer, assumptions)
    lengths = _lengths(source, material, trainer, recording)
    run = RunNumbers(
        steps=optimizer_steps(trainer),
        rows_per_step=trainer.accumulate_grad_batches or 1,
        processes=processes,
        strategy=strategy,
        num_tokens=module.num_tokens,
        num_frozen_tokens=module.num_frozen_tokens,
        element_bytes=_dtype(module, config).itemsize,
        weights=weights,
        recompute=module.gradient_checkpointing,
        loss_chunk_tokens=module.loss_chunk_tokens,
        teacher=teacher,
        tokens_per_batch=data.tokens_per_batch,
        uses=data.uses,
        groups_per_round=data.groups_per_round,
        num_shards=data.num_shards or processes,
        template_tokens=0 if isinstance(source, RawCorpus) else len(material.renderer.prompt_ids([user("")])),
        lengths=lengths,
        top_k=source.top_k,
        reads_again=objective.needs_teacher_hidden,
        threaded=source.threaded,
        **(_self_study(source, material) if isinstance(source, SelfStudy) else {}),
    )
    if getattr(source, "off_corpus_share", 0) or data.off_corpus_fraction:
        assumptions.append("conversations off the corpus cost as much as the others")
    if isinstance(getattr(source, "teacher", None), VLLM):
        unknown.append("memory of the vLLM engine, where it shares a device with the training")
    assumptions.append(lengths.source)
    _leave_out(module, trainer, unknown)
    return RecipeNumbers(
        model=module.model_name,
        shape=shape,
        teacher_shape=teacher_shape,
        run=run,
        assumptions=assumptions,
        unknown=unknown,
    )


def _teacher(source: Source) -> str:
    if not isinstance(source, SelfStudy):
        return NONE
    return LOCAL if isinstance(source.teacher, LocalTeacher) else SERVED


def _self_study(source: SelfStudy, material: Material) -> dict[str, Any]:
    """What the teacher reads, and how it is asked."""
    renderer, ids = material.renderer, material.corpus_ids
    opening, rng = len(renderer.context_ids([])), np.random.default_rng(0)
    chunks = [opening + source.chunker.chunk(ids, rng).num_tokens for _ in range(_DRAWS)]
    kinds = [
        np.mean([len(renderer.prompt_ids([user(wording)])) for wording in wordings])
        for wordings in resolve_seed_prompts(source.seed_prompts).values()
    ]
    return {
        "conversations_per_group": source.conversations_per_group,
        "rounds": source.num_rounds,
        "seed_tokens": round(float(np.mean(kinds))),
        "chunk_tokens": round(float(np.mean(chunks))),
        "longest_chunk_tokens": max(chunks),
        "corpus_in_front_tokens": source.teacher.prefix_positions(len(ids))
        if source.corpus_before_chunk
        else 0,
        "question_max_tokens": source.question.max_new_tokens,
        "answer_max_tokens": source.answer.max_new_tokens,
        "rows_side_by_side": getattr(source.teacher, "max_rows", source.conversations_per_group),
    }


def _lengths(source: Source, material: Material, trainer: Any, recording: Path | None) -> Lengths:
    if isinstance(source, RawCorpus):
        return Lengths.of_windows(min(source.window_tokens, len(material.corpus_ids)))
    path = recording
    if isinstance(source, Recorded):
        path = recording or Path(source.path)
    elif isinstance(source, SelfStudy) and recording is None:
        own = Path(source.recording_folder or Path(trainer.default_root_dir) / "recording")
        path = own if any(own.glob("*.parquet")) else None
    if path is not None:
        with called("recording" if recording else "source.path", path):
            return Lengths.of_recording(path, material.renderer.tokenizer)
    if not isinstance(source, SelfStudy):
        raise SettingError(
            "has lengths that are not known here; give --recording", {"data.source": type(source).__name__}
        )
    return Lengths.assumed(
        question_max_tokens=source.question.max_new_tokens, answer_max_tokens=source.answer.max_new_tokens
    )


def _model(frozen: Any, assumptions: list[str]) -> tuple[Shape, int]:
    """Its shape, and the number of its weights: counted on a model that has sizes and no numbers."""
    config = frozen.config()
    try:
        shape = Shape.of_config(config)
    except ShapeError as error:
        raise SettingError(
            f"{error}, so nothing can be counted of it", {frozen.setting: frozen.name}
        ) from error
    with torch.device("meta"):
        model = model_classes(config)[0].from_config(config, trust_remote_code=frozen.trust_remote_code)
    weights = sum(weight.numel() for weight in model.parameters())
    if abs(weights - shape.weights) > 0.02 * weights:
        assumptions.append(
            f"{frozen.name}: {weights:,} weights are counted in memory, but FLOPs and activations as those of a dense decoder "
            f"of its sizes ({shape.weights:,})"
        )
    if frozen.quantization_config is not None or getattr(config, "quantization_config", None) is not None:
        assumptions.append(f"{frozen.name}: quantised weights are counted as whole ones, so memory is less")
    return shape, weights


def _dtype(module: Any, config: Any) -> torch.dtype:
    if module.dtype_name != "auto":
        return getattr(torch, module.dtype_name)
    return config.get_text_config().dtype or config.dtype or torch.float32


def _processes(trainer: Any, assumptions: list[str]) -> tuple[int, str]:
    devices, strategy = trainer.devices, trainer.strategy
    if isinstance(devices, str) and devices not in ("auto", "-1"):
        devices = len(devices.split(",")) if "," in devices else int(devices)
    if isinstance(devices, list):
        devices = len(devices)
    if devices in (None, "auto", -1, "-1"):
        devices = max(1, torch.cuda.device_count())
        assumptions.append(f"trainer.devices=auto: {devices} here")
    processes = max(1, int(devices)) * (trainer.num_nodes or 1)
    name = strategy if isinstance(strategy, str) else str(strategy["class_path"]).rpartition(".")[2]
    options = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
    if name == "CartridgeDeepSpeedStrategy":
        if options.get("stage", 3) == 3:
            return processes, "offload" if options.get("offload_parameters") else "ZeRO-3"
        assumptions.append(
            "ZeRO below stage 3 is counted as DDP: it spreads moments and gradients of the cartridge alone"
        )
    elif not name.lower().startswith(("auto", "ddp", "single")):
        raise SettingError(
            "is counted by no formula here; give ddp, or CartridgeDeepSpeedStrategy",
            {"trainer.strategy": name},
        )
    return processes, "DDP"


def _leave_out(module: Any, trainer: Any, unknown: list[str]) -> None:
    unknown.append(f"the init ({type(module.init).__name__}), loading the model, and saving")
    callbacks = trainer.callbacks or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    names = [str(one["class_path"]).rpartition(".")[2] for one in callbacks]
    if trainer.val_check_interval is not None:
        names.append("validation")
    if names:
        unknown.append(f"what {', '.join(names)} will take")
    if module.objective.needs_teacher_hidden:
        unknown.append("memory of the teacher's reading in every step")
