"""Resident memory of each of two processes that train for a frozen model of about 1 GB with a separate teacher of the same size.

Under ZeRO-3 a process may never hold one model whole. The bound is its shares of both models, and room for a layer that
is gathered, another on its way, and what training itself takes. DDP, which holds both models, shows that the measure
sees them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.distributed.processes import results, run_jobs
from tests.tiny_models import VOCAB
from tests.tiny_run import save_corpus, save_recording, tokenizer

pytestmark = pytest.mark.distributed  # `make test-distributed`

LAYERS, MIB = 22, 1024**2
ROOM_BYTES = 200 * MIB  # allocator, activations, optimizer, NVMe buffers, libraries that load late
SHORT = {
    "conversations_per_group": 2,
    "groups_per_round": 1,
    "question_max_tokens": 2,
    "answer_max_tokens": 3,
}


def save_gigabyte(folder) -> int:
    """A random Llama in fp32; returns its bytes."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="200MB")
    tokenizer().save_pretrained(folder)
    return sum(p.nbytes for p in model.parameters())


def nvme_works() -> bool:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return bool(AsyncIOBuilder().is_compatible(verbose=False))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two steps with each strategy, in processes of their own; the bytes of one model, and what each rank wrote."""
    folder = tmp_path_factory.mktemp("memory")
    model_bytes = save_gigabyte(folder / "model")
    corpus = save_corpus(folder / "corpus.txt")
    recorded = save_recording(folder / "recorded.parquet", corpus=corpus)
    # The teacher reads every conversation again (FullDistillation). Generating would only repeat that, a token at a time.
    settings = {"model": str(folder / "model"), "teacher": str(folder / "model"), "corpus": corpus}
    job = {**settings, "steps": 2, "full": True, "data": {"recorded": recorded}, "limit_val_batches": 0}
    nvme = {"offload_parameters": True, "offload_params_device": "nvme", "nvme_path": str(folder)}
    strategies = {"ddp": {}, "zero3": {}} | ({"zero3-nvme": nvme} if nvme_works() else {})
    found = {}
    for name, options in strategies.items():
        named = {**job, "name": name, "strategy": name.split("-")[0], "strategy_options": options}
        run_jobs(folder / name, [named], world_size=2)
        found[name] = results(folder / name, name, 2)
    assert not list(folder.glob("lit_cartridges-*")), "a run leaves its shards on the disk"
    return model_bytes, found


def test_ddp_holds_both_models(runs, figure):
    model_bytes, found = runs
    for name, parts in found.items():
        peaks = ", ".join(f"{part['peak_bytes'] / MIB:.0f}" for part in parts)
        figure(f"memory, {name}: {peaks} MiB per process for two models of {model_bytes / MIB:.0f} MiB each")
    assert all(part["peak_bytes"] > 2 * model_bytes for part in found["ddp"])


@pytest.mark.parametrize(("strategy", "shares"), [("zero3", 2 * 0.5), ("zero3-nvme", 0)])
def test_zero3_holds_its_shares_and_a_few_layers(runs, strategy, shares):
    model_bytes, found = runs
    if strategy not in found:
        pytest.skip("libaio-dev is not installed, which DeepSpeed's NVMe offload needs")
    bound = shares * model_bytes + 4 * model_bytes / LAYERS + ROOM_BYTES
    for part in found[strategy]:
        assert part["peak_bytes"] < bound, (
            f"{part['peak_bytes'] / MIB:.0f} MiB, more than {bound / MIB:.0f} MiB"
        )


@pytest.mark.parametrize("strategy", ["zero3", "zero3-nvme"])
def test_they_train_alike(runs, strategy):
    _, found = runs
    if strategy in found:
        ours, theirs = (
            np.mean([part["losses"] for part in found[name]], axis=0) for name in (strategy, "ddp")
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
