"""`CartridgeDeepSpeedStrategy`: Lightning's DeepSpeedStrategy for a frozen model and a cartridge.

They need different things, so they are kept apart:

- The **cartridge** is what DeepSpeed's engine trains: whole and fp32 on every process, because attention reads all of
  it in every layer of every forward call, and gathering it each time would cost more than the memory is worth (p = 2048
  positions of an 8B model are 0.5 GB in fp32, of a 70B model 1.3 GB). Stage 1 shards its two moments, stage 2 and 3
  its gradients too.
- The **frozen model** is whole under stages 0 to 2. Under stage 3 its layers are sharded (`ShardedWeights`), loaded
  shard by shard (`load_sharded`), in its own dtype; so is a separate teacher. The shards may rest in CPU memory or on
  an NVMe disk (``offload_parameters``).

A checkpoint is one file as any other strategy writes it, without frozen weights: DeepSpeed's own would be a folder of
pickles for one number of processes. Gradient clipping and accumulation are DeepSpeed's.

On CUDA all is as in Lightning. Lightning refuses the CPU; this class takes it (backend gloo), for tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lit_cartridges.models import load_model
from lit_cartridges.runs.precision import FULL, require_full_precision
from lit_cartridges.strategies.lock_step import LockStep
from lit_cartridges.strategies.nvme_shards import require_nvme
from lit_cartridges.strategies.sharded_loading import load_sharded
from lit_cartridges.strategies.sharded_weights import ShardedWeights
from lit_cartridges.strategies.whole_optimizer import load_whole_state, whole_state


class CartridgeDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO stages 0 to 3 for `LitCartridge`.

    Args:
        stage: 0 shards nothing, 1 the cartridge's moments, 2 its gradients too, 3 the frozen weights as well.
        offload_parameters: let the frozen weights' shards rest elsewhere than where they compute (stage 3).
        offload_params_device: where: "cpu" (its memory) or "nvme" (a disk, see `nvme_shards`).
        nvme_path: folder on that disk, on every machine; a run's files there are removed when it ends.
        options: anything else that Lightning's DeepSpeedStrategy takes; ``timeout`` (30 minutes) is how long a process
            waits for one that hangs.

    Raises:
        ValueError: a stage that does not exist, or offloading without stage 3 or to an unknown device.
    """

    strategy_name = "cartridge_deepspeed"

    def __init__(
        self,
        *,
        stage: int = 3,
        offload_parameters: bool = False,
        offload_params_device: str = "cpu",
        nvme_path: str = "/local_nvme",
        **options: Any,
    ) -> None:
        if stage not in (0, 1, 2, 3):
            raise ValueError(f"strategy.stage={stage} must be 0, 1, 2 or 3")
        if offload_parameters and stage != 3:
            raise ValueError(
                f"strategy.offload_parameters=true with stage={stage}: only stage 3 shards frozen weights, which is "
                "what can be offloaded; set stage=3"
            )
        if offload_params_device not in ("cpu", "nvme"):
            raise ValueError(f"strategy.offload_params_device={offload_params_device!r} must be cpu or nvme")
        # The engine knows the cartridge alone, whose parameters stay whole: stage 2 is as far as it goes. It prints a
        # batch size; ours are packed, one row each.
        super().__init__(stage=min(stage, 2), logging_batch_size_per_gpu=1, **options)
        self.stage, self.offload_parameters = stage, offload_parameters
        self.offload_params_device, self.nvme_path = offload_params_device, nvme_path
        self._folders: list[TemporaryDirectory[str]] = []
        self._sharded: list[ShardedWeights] = []
        self._lock_step: LockStep | None = None

    @property
    def root_device(self) -> torch.device:
        """With an index, which Lightning hands to DeepSpeed."""
        device = super().root_device
        return torch.device("cpu", 0) if device.type == "cpu" else device

    def setup_environment(self) -> None:
        """As Lightning does, on the CPU too.

        Raises:
            ValueError: a precision other than 32-true, which is the cartridge's; or a disk that cannot be used.
        """
        require_full_precision(self.precision_plugin)
        if self._offloads_to_nvme:
            require_nvme(self.nvme_path)
        self.precision_plugin = _Precision(FULL)
        if isinstance(self.accelerator, CPUAccelerator):
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """As Lightning does, without asking CPUs for their CUDA index."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        self.set_world_ranks()
        with without_shared_memory_extension():
            self._init_deepspeed_distributed()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Nothing: `load_frozen_model` shards what is to be sharded, and the cartridge is not."""
        yield

    @property
    def shards_frozen_models(self) -> bool:
        """Whether frozen models are loaded by `load_sharded`, which takes whole models in safetensors files only."""
        return self.stage == 3

    def load_frozen_model(self, name: str, *, dtype: str, **options: Any) -> Any:
        """The module calls this instead of `load_model`; ends with the model's output head whole everywhere."""
        if self.stage < 3:
            return load_model(name, dtype=dtype, device=self.root_device, **options)
        hub = {
            key: value for key, value in options.items() if key not in ("device_map", "quantization_config")
        }
        with isolate_rng():
            model = load_sharded(
                name, dtype=dtype, device=self.root_device, config=self._frozen_config(), **hub
            )
        self._sharded.append(ShardedWeights(model))
        models = [*(self._lock_step.models if self._lock_step else ()), model]
        self._lock_step = LockStep(models, device=self.root_device)
        return model

    def _frozen_config(self) -> dict[str, Any]:
        """What DeepSpeed is told of one frozen model."""
        zero: dict[str, Any] = {
            "stage": 3,
            # DeepSpeed's replacement of torch's linear function would outlive this run; `saving` does its work.
            "memory_efficient_linear": False,
        }
        if self.offload_parameters:
            zero["offload_param"] = {"device": self.offload_params_device}
        if self._offloads_to_nvme:
            # Its own: DeepSpeed empties the folder, numbers processes by rank, and other runs may use the same disk.
            self._folders.append(TemporaryDirectory(prefix="lit_cartridges-", dir=self.nvme_path))
            zero["offload_param"]["nvme_path"] = self._folders[-1].name
        assert isinstance(self.config, dict)
        aio = self.config.get("aio", {})
        return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero, "aio": aio}

    @property
    def _offloads_to_nvme(self) -> bool:
        return self.offload_parameters and self.offload_params_device == "nvme"

    def in_step(self) -> Any:
        """A section in which processes may run frozen models unequally often, under no_grad (see `LockStep`)."""
        return self._lock_step.section() if self._lock_step and self.world_size > 1 else nullcontext()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's, while autograd keeps no sharded weight."""
        with ExitStack() as stack:
            # The innermost hooks alone see a tensor, and they know the weights of one model: the student's.
            if self._sharded:
                stack.enter_context(self._sharded[0].saving())
            return super().training_step(*args, **kwargs)

    def post_backward(self, closure_loss: torch.Tensor) -> None:
        """Let go of the first layer, which the backward pass read last."""
        for weights in self._sharded:
            weights.release()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Lightning's; then the norm of the gradient, which DeepSpeed knows only now."""
        result = super().optimizer_step(*args, **kwargs)
        norm = self.deepspeed_engine.get_global_grad_norm()
        if self.stage > 0 and norm is not None and self.lightning_module is not None:
            self.lightning_module.log("train/grad_norm", float(norm))
        return result

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        model.to(self.root_device)
        return super()._setup_model_and_optimizer(_Trained(model), optimizer, lr_scheduler)

    def _initialize_deepspeed_inference(self, model: Any) -> None:
        """Nothing to initialise: validation, test and prediction read the cartridge as it is."""
        model.to(self.root_device)
        self.model = model

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Whole, as torch's Adam writes it."""
        return whole_state(getattr(optimizer, "_optimizer", optimizer), self._parameters())

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """From what any strategy wrote."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            load_whole_state(optimizer, self._parameters(), saved)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The checkpoint holds the optimizer's state, and not DeepSpeed's files."""
        return True

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """One file, written by the first process."""
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """One file, of tensors and plain values."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """The cartridge, into the parameters that the engine trains."""
        Strategy.load_model_state_dict(self, checkpoint, strict=strict)

    def teardown(self) -> None:
        """Give sharded models their own forward calls back; they cannot be used afterwards."""
        for weights in self._sharded:
            weights.close()
        for folder in self._folders:
            folder.cleanup()
        super().teardown()

    def _parameters(self) -> list[nn.Parameter]:
        module: Any = self.lightning_module
        return list(module.cartridge.parameters())


@contextmanager
def without_shared_memory_extension() -> Iterator[None]:
    """On the CPU DeepSpeed would compile an extension for it, which takes a minute or two; gloo does without."""
    from deepspeed.ops import __compatible_ops__ as compatible

    name = "deepspeed_shm_comm"
    before = compatible.get(name)
    compatible[name] = False
    try:
        yield
    finally:
        compatible[name] = before


class _Precision(DeepSpeedPrecision):
    """Lightning's, with batches as they are, and the loss divided by its micro-batches once."""

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, *args: Any, **kwargs: Any) -> None:
        # Lightning has divided it; DeepSpeed would again, and clipping would see half the gradient of two micro-batches.
        super().backward(*args, scale_wrt_gas=False, **kwargs)


class _Trained(nn.Module):
    """What DeepSpeed's engine sees of a `LitCartridge`: its cartridge, and its forward call."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.cartridge = module.cartridge
        self._module = [module]  # a list hides the frozen models from the engine

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._module[0](*args, **kwargs)
