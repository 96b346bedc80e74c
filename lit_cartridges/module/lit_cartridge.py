"""`LitCartridge`: frozen model(s), one cartridge, one objective (arXiv 2506.06266, §3).

Here are the settings, what they make, and the loss: packed batch → the frozen student reads it after the cartridge
(`Reading`) → hidden states of the answer tokens → objective in chunks → gradients of the cartridge alone. `TrainingSteps` has
what a run does with it, `Checkpointed` what is saved.

Models load in `configure_model`, so that a strategy may shard them as they load.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import torch
from jsonargparse.typing import SecretStr
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from transformers import PreTrainedModel

from lit_cartridges.attention import reads_prefixes
from lit_cartridges.conversations.material import Material
from lit_cartridges.conversations.student import Student, StudyData
from lit_cartridges.data.batch import PackedBatch
from lit_cartridges.errors import SettingError
from lit_cartridges.init import FirstTokens, InitStrategy
from lit_cartridges.init.init_cost import InitCost, measured_init
from lit_cartridges.losses import LanguageHead, Objective, TopKDistillation, chunked_loss
from lit_cartridges.models.base_weights import plain_token
from lit_cartridges.models.position_limit import max_positions
from lit_cartridges.module.compiled_layers import CompiledLayers, require_compilable
from lit_cartridges.module.new_cartridge import (
    checkpoint_cartridge,
    init_context,
    new_cartridge,
    require_material,
)
from lit_cartridges.module.optimizers import OptimizerOf, OwnOptimizer, ScheduleOf
from lit_cartridges.module.packed_forward import student_hidden, teacher_hidden
from lit_cartridges.module.recomputing import recomputes_layers
from lit_cartridges.module.training_graphs import require_capturable
from lit_cartridges.module.training_steps import TrainingSteps
from lit_cartridges.runs.callback_rules import require_callbacks
from lit_cartridges.runs.precision import require_full_precision, require_no_autocast
from lit_cartridges.runs.resuming import read_checkpoint
from lit_cartridges.runs.run_progress import (
    require_end,
    require_whole_epochs,
)
from lit_cartridges.settings import (
    Decay,
    DTypeName,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    checked,
)
from lit_cartridges.settings.model_checks import DeviceMap, QuantizationConfig
from lit_cartridges.strategies.frozen_models import FrozenModel, in_step, load_frozen_model


class LitCartridge(TrainingSteps):
    """Trains a cartridge for a frozen model.

    Args:
        model: the student by its Hub id, folder, or ``package:NAME/FOLDER``.
        num_tokens: positions of the cartridge.
        num_frozen_tokens: leading positions that stay as they start (the attention sink).
        init: how the cartridge starts.
        objective: what the student is trained to match.
        teacher_model: another frozen model that asks and answers, with the student's tokenizer; the student by default.
        learning_rate: of Adam, after the warm-up.
        betas: of Adam.
        warmup_steps: optimizer steps of linear warm-up, capped at a tenth of all steps.
        final_lr_share: share of the learning rate at the end of the cosine.
        dtype: of the frozen weights: "auto" (as in their files), "float32", "bfloat16", "float16". The cartridge and
            its moments are fp32 in any case.
        gradient_checkpointing: recompute layers in the backward pass to save memory.
        compile_layers: compile the student's layers with torch.compile (minutes at the first step, fewer kernels afterwards;
            on a CPU it needs a C++ compiler); whole models only, neither sharded, spread nor quantised.
        cuda_graphs: on a CUDA device, launch forward and backward pass of a micro-batch as one CUDA graph, of rows padded to few
            shapes; up to twice a step's memory. Elsewhere without effect; one process, without DDP and ``compile_layers``.
        loss_chunk_tokens: answer tokens whose logits exist at a time.
        seed: of the init strategy.
        revision: branch, tag or commit of ``model`` on the Hub; by default its main branch.
        token: for private and gated models of the Hub, where HF_TOKEN does not hold it; it is written nowhere.
        trust_remote_code: run code that comes with ``model`` or ``teacher_model``.
        device_map: "auto", or a device per module of the frozen models, which accelerate then spreads; one process only.
        quantization_config: of the frozen models, as transformers takes it: ``{load_in_4bit: true}``.
    """

    @checked
    def __init__(
        self,
        *,
        model: str,
        num_tokens: PositiveInt,
        num_frozen_tokens: NonNegativeInt = 1,
        init: InitStrategy | None = None,
        objective: Objective | None = None,
        teacher_model: str | None = None,
        learning_rate: PositiveFloat = 2e-2,
        betas: tuple[Decay, Decay] = (0.9, 0.999),
        warmup_steps: NonNegativeInt = 100,
        final_lr_share: Share = 0.1,
        dtype: DTypeName = "auto",
        gradient_checkpointing: bool = False,
        compile_layers: bool = False,
        cuda_graphs: bool = False,
        loss_chunk_tokens: PositiveInt = 1024,
        seed: Seed = 0,
        revision: str | None = None,
        token: SecretStr | str | None = None,
        trust_remote_code: bool = False,
        device_map: DeviceMap | None = None,
        quantization_config: QuantizationConfig | None = None,
    ) -> None:
        super().__init__()
        if num_frozen_tokens >= num_tokens:
            raise SettingError(
                "at least one position must be left to train",
                num_frozen_tokens=num_frozen_tokens,
                num_tokens=num_tokens,
            )
        self.model_name, self.teacher_name = model, teacher_model
        self.num_tokens, self.num_frozen_tokens = num_tokens, num_frozen_tokens
        self.init, self.objective = init or FirstTokens(), objective or TopKDistillation()
        self.learning_rate, self.betas = learning_rate, betas
        self.warmup_steps, self.final_lr_share = warmup_steps, final_lr_share
        self.dtype_name, self.gradient_checkpointing = dtype, gradient_checkpointing
        self.compile_layers, self.cuda_graphs = compile_layers, cuda_graphs
        self.loss_chunk_tokens, self.seed = loss_chunk_tokens, seed
        self._student = FrozenModel(
            setting="model.model",
            name=model,
            dtype=dtype,
            revision=revision,
            token=plain_token(token),
            trust_remote_code=trust_remote_code,
            device_map=device_map,
            quantization_config=quantization_config,
        )
        self._teacher = None
        if teacher_model is not None:  # a revision is of one repository
            self._teacher = replace(
                self._student, setting="model.teacher_model", name=teacher_model, revision=None
            )
        self.init_cost: InitCost | None = None
        self._attached = ExitStack()
        self._compiled: CompiledLayers | None = None
        self.material: Material | None = None
        self._is_set_up = False

    def connect(self, data: StudyData) -> None:
        """Learn the corpus of ``data``, and let it know for which student its examples are.

        ``fit(module, data)`` with a `SelfStudyDataModule` does this by itself. ``fit(module, loader)`` with any loader of
        `PackedBatch` needs it where the init strategy reads the corpus.

        Raises:
            ValueError: a setting of ``data`` cannot work with this model or objective; the message names it.
        """
        self._data = data
        self.material = data.connect(
            Student(
                tokenizer=self.tokenizer,
                config=self.model_config,
                objective=self.objective,
                num_tokens=self.num_tokens,
                frozen_teacher=self._teacher or self._student,
            )
        )

    def configure_callbacks(self) -> list[L.Callback]:
        """None of our own; the trainer's, which are all known now and none of which has begun, are looked at."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            require_callbacks(self.trainer)
            if self._own_optimizer is not None:
                self._own_optimizer.require_figure(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Checks that need the configs only."""
        self._is_set_up = True
        require_full_precision(self.trainer.precision_plugin)
        require_no_autocast(self.trainer.strategy.root_device)
        if stage == "fit" and self.trainer.ckpt_path:
            self.resumption.accept(read_checkpoint(Path(self.trainer.ckpt_path)), self.trainer)
        if stage == "fit":
            require_end(self.trainer)
        if stage == "fit" and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            names = ("limit_train_batches", "overfit_batches", "accumulate_grad_batches")
            require_whole_epochs(**{name: getattr(self.trainer, name) for name in names})
        limit = max_positions(self.model_config)
        if limit is not None and self.num_tokens >= limit:
            raise ValueError(
                f"model.num_tokens={self.num_tokens} leaves no position for the user: {self.model_name} has "
                f"max_position_embeddings={limit}; choose fewer"
            )
        self._student.require_loadable(self.trainer.strategy)
        if self.compile_layers:
            require_compilable(self._student, self.trainer.strategy)
        if self.cuda_graphs and stage == "fit":
            require_capturable(self, self.trainer)
        if stage == "fit" and not self.trainer.ckpt_path and self.cartridge is None:
            self.init.check_model(self.model_config, self.num_tokens)
            require_material(self.init, self.material)
        self.require_one_tokenizer()

    def configure_model(self) -> None:
        """Load the frozen models and start the cartridge, if that is still to be done, and attach both."""
        if not self._is_set_up and self.trainer.state.fn:  # callbacks that average weights call this first
            self.setup(str(self.trainer.state.fn.value))
        if self.student is None:
            load = partial(load_frozen_model, self.trainer.strategy, device=self.device)
            self.hold("student", load(self.model_name, **self._student.options))
            if self._teacher is not None:
                self.hold("teacher", load(self._teacher.name, **self._teacher.options))
            assert self.student is not None
            self.head: LanguageHead = LanguageHead(self.student)
            self.teacher_head: LanguageHead = LanguageHead(self.frozen_teacher)
        # In one order on all processes, since a sharded model's first reading gathers its weights.
        for frozen in dict.fromkeys((self.student, self.frozen_teacher)):
            self._attached.enter_context(reads_prefixes(frozen))
        if self.compile_layers and self._compiled is None:
            self._compiled = CompiledLayers(self.student)
            self._compiled.try_out()
        if self._data is not None:
            self._data.bind_teacher(self.frozen_teacher)
        if self.cartridge is not None:
            self.require_its_model()
        if self.cartridge is None and self.trainer.ckpt_path:
            # What the init would give is about to be replaced. (`fit(ckpt_path=…)` tells nobody at this point: set
            # trainer.ckpt_path instead, as the command line does, where an init takes long.)
            self.cartridge = checkpoint_cartridge(
                Path(self.trainer.ckpt_path),
                self.init,
                self.material,
                base_model=self.model_name,
                model=self.student,
            )
        if self.cartridge is None:
            context = init_context(
                self.material,
                self.student,
                num_tokens=self.num_tokens,
                seed=self.seed,
                progress=self._shows_progress,
            )
            with in_step(self.trainer.strategy), measured_init(self.student.device) as self.init_cost:
                self.cartridge = new_cartridge(
                    self.init,
                    context,
                    self.material,
                    base_model=self.model_name,
                    num_frozen_tokens=self.num_frozen_tokens,
                )

    def load_teacher(self) -> PreTrainedModel:
        """The model that asks and answers, without a trainer."""
        source = self._teacher or self._student
        return load_frozen_model(None, source.name, device=torch.device("cpu"), **source.options)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Final hidden states [answers, width] of the student at the places that predict answer tokens."""
        assert self.cartridge is not None and self.student is not None
        with ExitStack() as stack:
            if self._compiled is not None:
                stack.enter_context(self._compiled.in_use())
            if self.gradient_checkpointing:
                stack.enter_context(recomputes_layers(self.student))
            return student_hidden(self.student, self.cartridge, batch)

    def losses(self, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the objective over the batch's answer tokens, and per token [answers] objective and NLL, in nats."""
        targets = batch.targets
        if self.objective.needs_teacher_hidden:
            targets = replace(targets, teacher_hidden=teacher_hidden(self.frozen_teacher, batch))
        return chunked_loss(
            self(batch),
            targets,
            self.objective,
            self.head,
            teacher_head=self.teacher_head,
            chunk_tokens=self.loss_chunk_tokens,
        )

    def use_optimizer(self, optimizer: OptimizerOf | None, lr_scheduler: ScheduleOf | None = None) -> None:
        """Train with another optimizer, or another schedule, than Adam with a warm-up and a cosine; see `OwnOptimizer`.

        ``learning_rate`` and ``betas`` are Adam's alone, ``warmup_steps`` and ``final_lr_share`` its schedule's. An optimizer
        without a schedule keeps its rate.
        """
        self._own_optimizer = OwnOptimizer(optimizer, lr_scheduler)

    def teardown(self, stage: str) -> None:
        """Give the models their own attention back."""
        self._attached.close()
        self._graphs = None
        self._is_set_up = False

    @property
    def _shows_progress(self) -> bool:
        return self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
