"""Recipes that are none are refused before a parser reads them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lit_cartridges.command_line.config_files import require_config_files
from lit_cartridges.errors import SettingError

# Eight times the line above in every line.
_BOMB = "a: &a [1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{above}'] * 8)}]\n" for above, name in pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: b: c", r"is not YAML \(line 1, column 5: mapping values are not allowed here\)"),
        ("a: {b", r"is not YAML \(line 1"),
        ("", "must hold settings by name, and it holds nothing"),
        ("- 1", "must hold settings by name, and it holds list"),
        ("a: &a [*a]", "a value contains itself"),
        ("a: &a {b: *a}", "a value contains itself"),
        ("a: " + "[" * 1000, "is not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML .*could not determine a constructor"),
        (_BOMB, "it comes to more than 100,000 values"),
    ],
    ids=["two colons", "open", "empty", "list", "circle", "circle of mappings", "deep", "python", "bomb"],
)
def test_what_is_no_recipe(tmp_path, content, told):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(SettingError, match=f"--config={path}.*{told}"):
        require_config_files(["--config", str(path)])


def test_what_is_no_file(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    for path, told in (
        (tmp_path / "nowhere.yaml", "there is no such file; lit-cartridges recipes lists"),
        (tmp_path, "is a folder; give a file"),
        (tmp_path / "bytes.yaml", "is not text in UTF-8"),
    ):
        with pytest.raises(SettingError, match=told):
            require_config_files([f"-c={path}"])


def test_a_recipe_passes(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {num_tokens: 3}\n")
    require_config_files(
        ["--config", str(tmp_path / "recipe.yaml"), "--config=https://example.org/recipe.yaml"]
    )
