"""A run whose chunks exceed the context: refused, unless the teacher reads them through a cascade."""

from __future__ import annotations

import pytest
import torch

from lit_cartridges.cascade.options import CascadeOptions
from lit_cartridges.teachers.local import LocalTeacher
from tests.tiny_run import new_data, new_module, new_trainer, save_corpus, save_model


@pytest.mark.parametrize("cascade", [None, CascadeOptions(total_tokens=68, cascades=4, stride_tokens=64)])
def test_a_chunk_may_be_a_whole_corpus_beyond_the_context(tmp_path, cascade):
    corpus = save_corpus(tmp_path / "long.txt", num_tokens=700)  # the model has 512 positions
    data = new_data(corpus, min_chunk_tokens=700, max_chunk_tokens=700, teacher=LocalTeacher(cascade=cascade))
    module = new_module(save_model(tmp_path / "model"))
    trainer = new_trainer(tmp_path / "run", max_steps=1)
    if cascade is None:
        with pytest.raises(ValueError, match="a chunk of 700 tokens .* do not fit the model's 512 positions"):
            trainer.fit(module, data)
    else:
        trainer.fit(module, data)
        assert trainer.global_step == 1
        assert torch.isfinite(torch.tensor(float(trainer.callback_metrics["train/loss"])))
