"""Tokasaurus folders: whole pages out, anything in."""

from __future__ import annotations

import pytest
import torch
import yaml

from lit_cartridges.cartridge import Provenance
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.formats.tokasaurus import TokasaurusFormat
from tests.formats.cartridges import drawn, same_content
from tests.formats.test_hazyresearch import their_dict

TOKA = TokasaurusFormat()


def their_folder(folder, cartridge, config, *, name="cartridge.pt", spelling="fixed"):
    folder.mkdir(exist_ok=True)
    torch.save(their_dict(cartridge, spelling=spelling), folder / name)
    (folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.dump(config))
    return folder


PLAIN = {
    "kv_cache_initializer": {"max_tokens": 20, "num_frozen_tokens": 2},
    "model": {"pretrained_model_name_or_path": "some/model"},
}
# As Weights & Biases stores a run's settings.
WANDB = {key: {"desc": None, "value": value} for key, value in PLAIN.items()} | {
    "_wandb": {"value": {"t": {}}}
}
TAGGED = yaml.dump(PLAIN) + "betas: !!python/tuple [0.9, 0.95]\ncls: !!python/name:torch.nn.Linear ''\n"


@pytest.mark.parametrize("spelling", ["frozen", "fixed"])
@pytest.mark.parametrize("config", [PLAIN, WANDB, TAGGED], ids=["plain", "wandb", "python tags"])
@pytest.mark.parametrize("name", ["cartridge.pt", "cache-step64.pt"])
def test_their_folders_are_read_exactly(spelling, config, name, tmp_path):
    cartridge = drawn(tokens=20)  # no whole pages: what was trained elsewhere can be read all the same
    folder = their_folder(tmp_path / "a", cartridge, config, name=name, spelling=spelling)
    assert TOKA.recognises(folder)
    back = TOKA.read(folder, trust_pickle=True)
    assert same_content(back, cartridge)
    assert back.provenance == Provenance(base_model="some/model")


def test_a_tag_of_python_makes_nothing(tmp_path):
    created = tmp_path / "created"
    config = yaml.dump(PLAIN) + f"a: !!python/object/apply:os.mkdir ['{created}']\n"
    TOKA.read(their_folder(tmp_path / "a", drawn(tokens=20), config), trust_pickle=True)
    assert not created.exists()


@pytest.mark.parametrize("frozen", [0, 1, 5])
def test_a_round_trip_is_exact(frozen, tmp_path, recwarn):
    cartridge = drawn(tokens=32, frozen=frozen, base_model="some/model")
    TOKA.write(cartridge, tmp_path)
    back = TOKA.read(tmp_path, trust_pickle=True)
    assert same_content(back, cartridge) and back.provenance == cartridge.provenance
    assert not recwarn.list
    assert {path.name for path in tmp_path.iterdir()} == {"cartridge.pt", "config.yaml"}


@pytest.mark.parametrize("frozen", [0, 2])
def test_the_server_finds_what_it_reads(frozen, tmp_path):
    """Its loader asks for the settings below, for a first frozen tensor, and for whole pages."""
    TOKA.write(drawn(tokens=32, frozen=frozen, base_model="some/model"), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["kv_cache_initializer"]["max_tokens"] == 32
    assert config["model"]["pretrained_model_name_or_path"] == "some/model"
    content = torch.load(tmp_path / "cartridge.pt", weights_only=False)
    lists = [content[name] for name in ("trainable_keys", "trainable_values", "frozen_keys", "frozen_values")]
    assert {len(x) for x in lists} == {3}
    assert content["frozen_keys"][0].shape[2] + content["trainable_keys"][0].shape[2] == 32
    assert torch.cat([content["frozen_keys"][0], content["trainable_keys"][0]], dim=2).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tokens", "told"), [(20, "num_tokens=16 or 32"), (47, "num_tokens=32 or 48"), (9, "num_tokens=16")]
)
def test_part_of_a_page_is_refused_and_the_mend_named(tokens, told, tmp_path):
    with pytest.raises(ValueError, match=rf"num_tokens={tokens} is no multiple of 16, .* {told}$"):
        TOKA.write(drawn(tokens=tokens, base_model="some/model"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_must_be_named(tmp_path):
    with pytest.raises(ValueError, match="does not name its model, .* give --base_model"):
        TOKA.write(drawn(), tmp_path)


def test_a_pickle_must_be_asked_for(tmp_path):
    folder = their_folder(tmp_path / "a", drawn(tokens=20), PLAIN)
    with pytest.raises(CartridgeFileError, match="cartridge.pt is a pickle"):
        TOKA.read(folder)


def test_settings_that_disagree_with_the_tensors_are_said(tmp_path):
    folder = their_folder(tmp_path / "a", drawn(), PLAIN)
    with pytest.warns(UserWarning, match="says 20 positions and cartridge.pt holds 16"):
        assert TOKA.read(folder, trust_pickle=True).num_tokens == 16


@pytest.mark.parametrize(
    ("config", "told"), [("a: [1", "config.yaml cannot be read"), ("- 1", "holds no settings, but list")]
)
def test_settings_that_are_none_are_named(config, told, tmp_path):
    with pytest.raises(CartridgeFileError, match=told):
        TOKA.read(their_folder(tmp_path / "a", drawn(), config), trust_pickle=True)


def test_several_files_need_a_choice(tmp_path):
    folder = their_folder(tmp_path / "a", drawn(), PLAIN, name="cache-step1.pt")
    their_folder(folder, drawn(), PLAIN, name="cache-step2.pt")
    with pytest.raises(
        CartridgeFileError, match="cartridge.pt or one other .pt file; found cache-step1.pt, cache"
    ):
        TOKA.read(folder, trust_pickle=True)
