"""Settings of the DeepSpeed strategy that cannot work are refused before a model is loaded."""

from __future__ import annotations

import pytest

from lit_cartridges.cartridge_cli import CartridgeCLI

pytest.importorskip("deepspeed")

from lit_cartridges.strategies import CartridgeDeepSpeedStrategy
from lit_cartridges.strategies.nvme_shards import require_nvme
from tests.tiny_run import new_trainer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 4}, r"strategy.stage=4 must be 0, 1, 2 or 3"),
        ({"stage": 2, "offload_parameters": True}, r"offload_parameters=true with stage=2: .*; set stage=3"),
        ({"offload_params_device": "disk"}, r"strategy.offload_params_device='disk' must be cpu or nvme"),
    ],
)
def test_options_that_contradict(options, message):
    with pytest.raises(ValueError, match=message):
        CartridgeDeepSpeedStrategy(**options)


def test_another_precision(tmp_path):
    trainer = new_trainer(tmp_path, strategy=CartridgeDeepSpeedStrategy(), precision="bf16-true")
    with pytest.raises(ValueError, match=r"trainer.precision='bf16-true': .* set model.dtype"):
        trainer.strategy.setup_environment()


def test_a_disk_that_is_not_there(tmp_path, monkeypatch):
    from deepspeed.ops.op_builder import AsyncIOBuilder

    with pytest.raises(ValueError, match=r"strategy.nvme_path='/no/such/folder' is no folder"):
        require_nvme("/no/such/folder")
    monkeypatch.setattr(AsyncIOBuilder, "is_compatible", lambda self, verbose: False)
    with pytest.raises(ValueError, match=r"needs libaio .*apt-get install libaio-dev g\+\+"):
        require_nvme(str(tmp_path))


def test_options_of_lightnings_strategy_are_known_to_the_command_line(tmp_path):
    arguments = ["--config=pocket.yaml", "--config=deepspeed/zero3.yaml", "--trainer.devices=1"]
    arguments += ["--trainer.strategy.timeout=0:05:00", f"--trainer.default_root_dir={tmp_path}"]
    strategy = CartridgeCLI.run_with(arguments, run=False).trainer.strategy
    assert strategy._timeout.total_seconds() == 300
