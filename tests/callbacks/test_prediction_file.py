"""Per-token losses of `predict`, against the module's own on each conversation alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from torch.utils.data import DataLoader

from lit_cartridges.callbacks import PredictionFile
from lit_cartridges.cli import main
from lit_cartridges.data.batch import pack
from tests.test_cli import command, options  # noqa: F401  a fixture
from tests.tiny_run import from_recording, new_module, new_trainer


def predicted(folder, module, data, **settings) -> PredictionFile:
    writer = PredictionFile()
    new_trainer(folder, writer, **settings).predict(module, data)
    return writer


def test_each_answer_token_has_its_row(tmp_path, model_folder, corpus, recorded):
    module = new_module(model_folder)
    data_options = {"tokens_per_batch": 60, "validation": recorded, "validation_groups": 2}
    data = from_recording(corpus, recorded, **data_options)
    writer = predicted(tmp_path / "run", module, data)
    table = pq.read_table(writer.path)
    assert (
        writer.path == tmp_path / "run" / "predictions.parquet" and table.schema.metadata[b"unit"] == b"nats"
    )
    batches = list(data.predict_dataloader())
    assert len(batches) > 1 and max(len(batch.lengths) for batch in batches) > 1
    examples = [e for group in range(2) for e in data._held_out.examples(group)]
    assert set(table["conversation"].to_pylist()) == set(range(len(examples)))
    alone = DataLoader([pack([example]) for example in examples], batch_size=None)
    for index, (example, one) in enumerate(
        zip(examples, new_trainer(tmp_path).predict(module, alone), strict=True)
    ):
        own = table.filter(pc.equal(table["conversation"], index)).to_pydict()
        assert own["token_id"] == example.target_ids.tolist()
        assert own["token"] == (example.target_rows + 1).tolist()
        assert set(own["label"]) == {example.label}
        np.testing.assert_allclose(own["nll"], one["nll"], atol=1e-5)
        np.testing.assert_allclose(own["loss"], one["token_losses"], atol=1e-5)


def test_the_command_says_where_they_are(tmp_path, options, capsys):  # noqa: F811
    main(command("fit", options))
    main(command("predict", options | {"data.validation_groups": 1}))
    assert f"per-token losses: {tmp_path / 'run' / 'predictions.parquet'}" in capsys.readouterr().out
    assert pq.read_metadata(tmp_path / "run" / "predictions.parquet").num_rows > 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["true", pytest.param("false", marks=pytest.mark.thorough)])
def test_two_processes_write_the_rows_of_one(tmp_path, options, sampler):  # noqa: F811
    options |= {"data.validation_groups": 1, "data.tokens_per_batch": 30}
    main(command("fit", options))
    found = []
    for processes in (1, 2):
        devices = {"trainer.devices": processes, "trainer.strategy": "ddp" if processes > 1 else "auto"}
        arguments = command(
            "predict", options | devices, f"--trainer.use_distributed_sampler={sampler}", "--resume=auto"
        )
        subprocess.run([sys.executable, "-m", "lit_cartridges.cli", *arguments], check=True, timeout=300)
        found.append(pq.read_table(tmp_path / "run" / "predictions.parquet"))
    assert found[0].num_rows and found[0].drop(["loss", "nll"]) == found[1].drop(["loss", "nll"])
    for name in ("loss", "nll"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-5)


def test_a_fast_dev_run_writes_nothing(tmp_path, model_folder, corpus, recorded):
    data = from_recording(corpus, recorded, validation=recorded)
    assert predicted(tmp_path / "run", new_module(model_folder), data, fast_dev_run=True).path is None
    assert not (tmp_path / "run").exists()
