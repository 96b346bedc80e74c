"""Files of other systems that are damaged, or made to harm: one line that names the file, and nothing is made large."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from lit_cartridges import Cartridge
from lit_cartridges.cartridge_files import CartridgeFileError
from lit_cartridges.cartridge_files.description import NotFiniteError
from lit_cartridges.formats import FORMATS
from tests.formats.cartridges import drawn, same_content

PEFT, HAZY, TOKA = FORMATS["peft"], FORMATS["hazyresearch"], FORMATS["tokasaurus"]
pytestmark = pytest.mark.filterwarnings("ignore:.* files hold no:UserWarning")


def refused(known, path, told):
    with pytest.raises(CartridgeFileError, match=told) as caught:
        known.read(path, trust_pickle=True)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def content(**changed):
    """What a HazyResearch file holds: 2 layers, 2 heads, 1 frozen and 3 trained positions of 4."""
    sides = {f"trainable_{side}": [torch.ones(1, 2, 3, 4)] * 2 for side in ("keys", "values")}
    frozen = {f"frozen_{side}": [torch.ones(1, 2, 1, 4)] * 2 for side in ("keys", "values")}
    return sides | frozen | changed


def saved(path, held, **options):
    torch.save(held, path, **options)
    return path


def test_the_content_of_these_tests_is_read(tmp_path):
    assert HAZY.read(saved(tmp_path / "a.pt", content()), trust_pickle=True).num_tokens == 4


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: nn.Parameter(x, requires_grad=False)])
def test_a_view_larger_than_what_is_stored_is_refused(wrap, old, tmp_path):
    huge = [wrap(torch.zeros(1).expand(1, 2, 2**30, 4))] * 2
    path = saved(tmp_path / "a.pt", content(trainable_keys=huge), _use_new_zipfile_serialization=not old)
    assert path.stat().st_size < 10_000
    refused(
        HAZY, path, r"a tensor \[2, 1073741824, 4\] of .* bytes that are a view of 4: its numbers are not in"
    )


def test_overlapping_windows_of_one_storage_are_refused(tmp_path):
    windows = torch.arange(16.0).as_strided((1, 2, 3, 4), (0, 1, 1, 1))
    refused(HAZY, saved(tmp_path / "a.pt", content(trainable_keys=[windows] * 2)), "bytes that are a view of")


def test_one_tensor_named_without_end_is_refused(tmp_path):
    layer = torch.ones(1, 2, 1000, 4)
    many = {name: [layer] * 200 for name in ("trainable_keys", "trainable_values")} | {
        name: [layer] * 200 for name in ("frozen_keys", "frozen_values")
    }
    refused(HAZY, saved(tmp_path / "a.pt", many), "its tensors are one and the same")


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (torch.ones(1, 2, 3, 4, dtype=torch.complex64), "complex64, which no key or value is"),
        (torch.ones(1, 2, 3, 4, dtype=torch.int64), "int64, which no"),
        (torch.ones(1, 2, 3, 4, dtype=torch.bool), "bool, which no"),
        (torch.ones(1, 2, 3, 4).to(torch.float8_e4m3fn), "float8_e4m3fn, which no"),
        (torch.ones(1, 2, 3, 4).to_sparse(), "torch.sparse_coo"),
        (torch.ones(1, 2, 3, 4, device="meta"), "on meta"),
        (torch.quantize_per_tensor(torch.ones(1, 2, 3, 4), 1.0, 0, torch.qint8), "qint8|refused"),
        (torch.ones(1, 2, 3, 4) * float("nan"), "keys of layer 0 hold values that are NaN"),
        (torch.full((1, 2, 3, 4), 1e300, dtype=torch.float64), "infinite in float32"),
        (torch.ones(1, 3, 3, 4), "is no cartridge"),
        (torch.ones(2, 3, 4), "must hold tensors"),
        ([torch.ones(1, 2, 3, 4)], "must hold tensors .* found list"),
        (None, "must hold tensors .* found NoneType"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_no_plain_numbers_are_refused(x, told, tmp_path):
    refused(HAZY, saved(tmp_path / "a.pt", content(trainable_keys=[x, x])), told)


def nested(depth):
    value = ("x",)
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "held", [[], nested(60), {"a": nested(60)}, {1: 2}, content(frozen_keys=3), content(frozen_keys={})]
)
def test_wrong_nesting_is_named_and_never_unfolded(held, tmp_path):
    refused(HAZY, saved(tmp_path / "a.pt", held), "a.pt")


def tuples(depth):
    value = ("x",)
    for _ in range(depth):
        value = (value, value)
    return value


def folded(depth):
    """A pickle of a dict with one key: tuples of tuples. Python itself cannot make it, since it would look at each."""
    return pickle.dumps(tuples(depth), protocol=2)[:-1].replace(b"\x80\x02", b"\x80\x02}", 1) + b"K\x01s."


@pytest.mark.parametrize("old", [False, True])
def test_a_key_that_unfolds_without_end_is_refused_and_not_waited_for(old, tmp_path):
    path = saved(tmp_path / "a.pt", {"a": 1}, _use_new_zipfile_serialization=not old)
    if old:
        whole = path.read_bytes()
        at = whole.rindex(b"\x80\x02}")
        path.write_bytes(whole[:at] + folded(60))
    else:
        rebuilt(
            path, lambda parts: [(n, folded(60) if n.endswith("data.pkl") else x) for n, x in parts.items()]
        )
    refused(HAZY, path, "its pickle unfolds to more than 10,000,000 objects")


def test_a_key_of_few_tuples_is_only_no_cartridge(tmp_path):
    path = rebuilt(
        saved(tmp_path / "a.pt", {"a": 1}),
        lambda parts: [(n, folded(5) if n.endswith("data.pkl") else x) for n, x in parts.items()],
    )
    refused(HAZY, path, "missing, found")


def rebuilt(path, change, how=zipfile.ZIP_STORED):
    source = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w", how) as target:
        for name, part in change(source):
            target.writestr(name, part)
    return path


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path = saved(tmp_path / "a.pt", {"trainable_keys": [torch.zeros(2**22)]})
    refused(HAZY, rebuilt(path, lambda parts: parts.items(), zipfile.ZIP_DEFLATED), "its parts are packed")
    assert path.stat().st_size < 2**17


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_part_that_is_there_twice_is_refused(tmp_path):
    path = saved(tmp_path / "a.pt", content())
    refused(HAZY, rebuilt(path, lambda parts: [*parts.items(), *parts.items()]), "two parts of one name")


@pytest.mark.parametrize("known", [HAZY, TOKA, PEFT], ids=lambda known: known.name)
def test_a_flipped_bit_in_an_archive_is_seen(known, tmp_path):
    path = tmp_path / "c.pt" if known is HAZY else tmp_path / "c"
    known.write(drawn(base_model="some/model"), path)
    file = {HAZY: path, TOKA: path / "cartridge.pt", PEFT: path / "adapter_model.bin"}[known]
    if known is PEFT:
        torch.save(load_file(path / "adapter_model.safetensors"), file)
        (path / "adapter_model.safetensors").unlink()
    whole = file.read_bytes()
    values = zipfile.ZipFile(io.BytesIO(whole)).read(
        next(n for n in zipfile.ZipFile(file).namelist() if "data/0" in n)
    )
    changed = bytearray(whole)
    changed[whole.index(values) + 5] ^= 4
    file.write_bytes(changed)
    refused(known, path, "its part '.*data/0' is damaged")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kv_cache_initializer: &a\n  value: *a\n", "holds itself"),
        (
            "kv_cache_initializer: {value: {value: {value: {value: {value: {value: {value: {value: {}}}}}}}}}\n",
            "without end",
        ),
        (
            "kv_cache_initializer: {max_tokens: [1]}\n",
            "max_tokens must be a whole number from 0 up, found a list",
        ),
        ("kv_cache_initializer: {max_tokens: .nan}\n", "max_tokens must be a whole number"),
        ("model: {pretrained_model_name_or_path: [a]}\n", "must be text, found a list"),
        ('model: {pretrained_model_name_or_path: "\\uD800"}\n', "cannot be read"),
        ("a: [" * 5000, "cannot be read"),
        ("a: 2001-99-99\n", "cannot be read: month must be in"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("a: !!python/object/apply:os.system [true]\nb: *c\n", "cannot be read"),
        ("a: &a {b: 1}\nc: {<<: *a}\n", "a merge key"),
        (
            "m0: &m0 {k: 1}\n"
            + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 60)),
            "a merge key",
        ),
        ("# " + "x" * 2**20, "it has 1,048,578 bytes"),
        ("\0", "cannot be read"),
    ],
)
def test_settings_that_loop_or_explode_are_refused(text, told, tmp_path):
    TOKA.write(drawn(base_model="some/model"), tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    refused(TOKA, tmp_path, told)


def test_an_alias_bomb_that_nobody_looks_into_costs_nothing(tmp_path):
    TOKA.write(drawn(base_model="some/model"), tmp_path)
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
    (tmp_path / "config.yaml").write_text(bomb + "model: {pretrained_model_name_or_path: some/model}\n")
    assert TOKA.read(tmp_path, trust_pickle=True).provenance.base_model == "some/model"
    (tmp_path / "config.yaml").write_text(bomb + "model: {pretrained_model_name_or_path: *a39}\n")
    refused(TOKA, tmp_path, "must be text, found a list")


def test_the_settings_that_we_write_have_no_anchors(tmp_path):
    TOKA.write(drawn(base_model="some/model"), tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["kv_cache_initializer"]["max_tokens"] == 16


@pytest.mark.parametrize(
    "name", ["num_virtual_tokens", "num_frozen_tokens", "num_layers", "num_attention_heads", "token_dim"]
)
@pytest.mark.parametrize("value", [None, "16", 16.0, True, [16], {}, -1, 10**30])
def test_a_number_of_an_adapters_settings_is_one(name, value, tmp_path):
    PEFT.write(drawn(), tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    refused(PEFT, tmp_path, rf"adapter_config.json: {name} must be a whole number from 0 up, found")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"peft_type": ["CARTRIDGE"]}', "peft_type must be text, found a list"),
        ('{"peft_type": null}', "peft_type must be text, found None"),
        ('{"num_layers": NaN}', "NaN is no finite number"),
        ('{"token_dim": 1e999}', "1e999 is no finite number"),
        ("[" * 100_000, "nested too deeply"),
        ('{"base_model_name_or_path": "\\ud800"}', "half a surrogate pair"),
        ("[]", "no adapter's settings: found a list"),
        ("\x00", "no adapter's settings"),
        (
            '{"peft_type": "CARTRIDGE", "base_model_name_or_path": ["a"]}',
            "base_model_name_or_path must be text or null",
        ),
        ('{"peft_type": "CARTRIDGE", "num_transformer_submodules": null}', "num_transformer_submodules=None"),
    ],
)
def test_settings_of_an_adapter_that_are_none_are_named(text, told, tmp_path):
    PEFT.write(drawn(), tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    refused(PEFT, tmp_path, told)


@pytest.mark.parametrize("shape", [[16, 2**60], [2**40, 2**40], [16, 97], [0, 96], [16]])
def test_a_header_that_claims_another_shape_is_refused(shape, tmp_path):
    PEFT.write(drawn(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    header["prompt_embeddings"]["shape"] = shape
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
    refused(PEFT, tmp_path, "adapter_model.safetensors is truncated or")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_adapter_with_a_value_that_is_not_finite_is_refused(value, tmp_path):
    PEFT.write(drawn(), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors["prompt_embeddings"][3, 7] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    refused(PEFT, tmp_path, "keys of layer 0 hold values that are NaN or infinite")
    tensors["prompt_embeddings"] = torch.ones(16, 96, dtype=torch.int8)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    refused(PEFT, tmp_path, "int8, which no key or value is")


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.reads])
def test_nothing_is_written_of_a_cartridge_with_nan(name, tmp_path):
    keys, values = drawn(base_model="some/model").tensors()
    spoilt = Cartridge(
        keys, [*values[:-1], values[-1] * float("nan")], provenance=drawn(base_model="m").provenance
    )
    path = tmp_path / f"out{FORMATS[name].suffix}"
    with pytest.raises(NotFiniteError, match="the values of layer 2 hold values that are NaN or infinite"):
        FORMATS[name].write(spoilt, path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["peft", "hazyresearch", "tokasaurus"])
def test_nothing_is_written_that_would_be_infinite_in_the_dtype_of_the_file(name, tmp_path):
    keys, values = drawn().tensors()
    large = Cartridge([keys[0] + 1e5, *keys[1:]], values, provenance=drawn(base_model="m").provenance)
    path = tmp_path / f"out{FORMATS[name].suffix}"
    with pytest.raises(NotFiniteError, match="the keys of layer 0 .* infinite in float16"):
        FORMATS[name].write(large, path, dtype=torch.float16)
    assert not path.exists()
    FORMATS[name].write(large, path, dtype=torch.float32)
    assert same_content(FORMATS[name].read(path, trust_pickle=True), large)
