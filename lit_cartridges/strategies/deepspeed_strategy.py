"""`CartridgeDeepSpeedStrategy`: Lightning's DeepSpeedStrategy for a frozen model and a cartridge.

They need different things, so they are kept apart:

- The **cartridge** is what DeepSpeed's engine trains: whole and fp32 on every process, because attention reads all of
  it in every layer of every forward call, and gathering it each time would cost more than the memory is worth (p = 2048
  positions of an 8B model are 0.5 GB in fp32, of a 70B model 1.3 GB). Stage 1 shards its two moments, stage 2 and 3
  its gradients too.
- The **frozen model** is whole under stages 0 to 2. Under stage 3 its layers are sharded (`ShardedWeights`), loaded
  shard by shard (`load_sharded`), in its own dtype; so is a separate teacher. The shards may rest in CPU memory
  (``offload_parameters``).

A checkpoint is one file as any other strategy writes it, without frozen weights: DeepSpeed's own would be a folder of
pickles for one number of processes. Gradient clipping and accumulation are DeepSpeed's.

On CUDA all is as in Lightning. Lightning refuses the CPU; this class takes it (backend gloo), for tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lit_cartridges.models import load_model
from lit_cartridges.strategies.lock_step import LockStep
from lit_cartridges.strategies.sharded_loading import load_sharded
from lit_cartridges.strategies.sharded_weights import ShardedWeights
from lit_cartridges.strategies.whole_optimizer import load_whole_state, whole_state


class CartridgeDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO stages 0 to 3 for `LitCartridge`.

    Args:
        stage: 0 shards nothing, 1 the cartridge's moments, 2 its gradients too, 3 the frozen weights as well.
        offload_parameters: let the frozen weights' shards rest in CPU memory (stage 3).
        options: anything else that Lightning's DeepSpeedStrategy takes.

    Raises:
        ValueError: a stage that does not exist, or offloading without stage 3.
    """

    strategy_name = "cartridge_deepspeed"

    def __init__(
        self,
        *,
        stage: int = 3,
        offload_parameters: bool = False,
        **options: Any,
    ) -> None:
        if stage not in (0, 1, 2, 3):
            raise ValueError(f"strategy.stage={stage} must be 0, 1, 2 or 3")
        if offload_parameters and stage != 3:
            raise ValueError(
                f"strategy.offload_parameters=true with stage={stage}: only stage 3 shards frozen weights, which is "
                "what can be offloaded; set stage=3"
            )
        # The engine knows the cartridge alone, whose parameters stay whole: stage 2 is as far as it goes. It prints a
        # batch size; ours are packed, one row each.
        super().__init__(**({"stage": min(stage, 2), "logging_batch_size_per_gpu": 1} | options))
        self.stage = stage
        self._frozen_config = {
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {
                "stage": 3,
                # DeepSpeed's replacement of torch's linear function would outlive this run; `saving` does its work.
                "memory_efficient_linear": False,
                **({"offload_param": {"device": "cpu"}} if offload_parameters else {}),
            },
        }
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
            ValueError: a precision other than 32-true, which is the cartridge's.
        """
        if self.precision_plugin.precision != "32-true":
            raise ValueError(
                f"trainer.precision={self.precision_plugin.precision!r}: cartridges are trained in fp32, and the frozen "
                "model has a dtype of its own; leave trainer.precision at 32-true and set model.dtype"
            )
        self.precision_plugin = _Precision("32-true")
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

    def load_frozen_model(self, name: str, *, dtype: str) -> Any:
        """The module calls this instead of `load_model`; ends with the model's output head whole everywhere."""
        if self.stage < 3:
            return load_model(name, dtype=dtype, device=self.root_device)
        with isolate_rng():
            model = load_sharded(name, dtype=dtype, device=self.root_device, config=self._frozen_config)
        self._sharded.append(ShardedWeights(model))
        models = [*(self._lock_step.models if self._lock_step else ()), model]
        self._lock_step = LockStep(models, device=self.root_device)
        return model

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
    """DeepSpeed's, with batches as they are."""

    def convert_input(self, data: Any) -> Any:
        return data


class _Trained(nn.Module):
    """What DeepSpeed's engine sees of a `LitCartridge`: its cartridge, and its forward call."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.cartridge = module.cartridge
        self._module = [module]  # a list hides the frozen models from the engine

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._module[0](*args, **kwargs)
