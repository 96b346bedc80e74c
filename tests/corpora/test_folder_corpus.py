from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lit_cartridges.corpora import CorpusError, FolderCorpus, open_corpus


def fill(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def names(folder: Path, **options: object) -> list[str]:
    return [document.name for document in FolderCorpus(path=folder, **options).documents()]  # type: ignore[arg-type]


def test_code_and_text_are_known_by_their_content(tmp_path):
    texts = "main.rs app.go a.ts b.yaml c.json Makefile NOTES.TXT deep/README deep/x.unheard-of"
    fill(tmp_path, dict.fromkeys(texts.split(), "some text"))
    fill(
        tmp_path,
        {"a.so": b"\x7fELF\0\0", "z.txt.gz": b"\x1f\x8b\x08" + bytes(range(1, 99)), "n.txt": b"a\0b"},
    )
    assert names(tmp_path) == sorted(texts.split())


def test_texts_of_a_folder_are_what_they_were_before_code_was_read(tmp_path):
    fill(tmp_path, {"b.md": "---\nx: y\n---\n# b\r\n", "a.txt": "\ufeffa\r\n\r\nb", "c/d.txt": " d "})
    assert FolderCorpus(path=tmp_path).text == "a\n\nb\n\n---\nx: y\n---\n# b\n\nd"


def test_builds_hidden_folders_and_environments_are_not_looked_into(tmp_path):
    left = "node_modules/a.js __pycache__/b.txt target/c.rs dist/d.js .venv/e.py .git/config env/pyvenv.cfg x.egg-info/f .env"
    fill(tmp_path, dict.fromkeys(left.split(), "text") | {"src/target.py": "text", "targets/a.md": "text"})
    assert names(tmp_path) == ["src/target.py", "targets/a.md"]
    assert "target/c.rs" in names(tmp_path, skip_folders=[])


def test_the_folder_itself_may_have_any_name(tmp_path):
    assert names(fill(tmp_path / ".notes" / "build", {"a.txt": "text"})) == ["a.txt"]


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@pytest.mark.parametrize(
    ("rules", "deeper"),
    [
        ("*.log\nsecret/\n/top.txt\n", "!kept.log\n"),
        ("/*\n!/src\n", ""),
        ("*\n!*/\n!*.txt\n", "*.txt\n!a.txt\n"),
        ("src/*\n!src/a.txt\n# no rule\n!\n\\\n\r\n", "a b.txt\r\n"),
        ("**/deep/**\n", "!deep/b.log"),
        ("src\n", "!a.txt"),
        ("src/**/\n*/a.txt\n", "**"),
        ("**\n!src/\n!src/deep\n!a.txt", "deep/*.txt\n"),
        ("deep/\nsecret/*\n", "/deep\n!deep/"),
        ("/src/*\n!/src/deep/  \n", "!/top.txt"),
        ("a[12].txt\n\\!x.txt\n", "deep"),
    ],
)
def test_gitignore_files_count_as_for_git(tmp_path, rules, deeper):
    files = "top.txt kept.log src/top.txt src/a.txt src/kept.log src/a$b.txt src/deep/b.log src/deep/a.txt"
    files += " secret/a.txt a1.txt !x.txt"
    fill(tmp_path, {name.replace("$", " "): "text" for name in files.split()})
    fill(tmp_path, {".gitignore": rules, "src/.gitignore": deeper})
    git = ["git", "-c", "core.excludesFile=", "-c", "core.quotePath=false"]
    subprocess.run([*git, "init", "-q", tmp_path], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "--others", "--exclude-standard"], cwd=tmp_path, check=True, capture_output=True
    )
    of_git = [name for name in listed.stdout.decode().splitlines() if not Path(name).name.startswith(".")]
    assert names(tmp_path) == sorted(of_git)
    assert len(names(tmp_path, gitignore=False)) == len(files.split())


def test_links_lead_in_no_circle_and_pipes_are_not_waited_for(tmp_path):
    fill(tmp_path / "in", {"a.txt": "text", "sub/b.txt": "text"})
    fill(tmp_path, {"out.txt": "text", "away/c.txt": "text"})
    for link, to in {
        "loop": "in",
        "sub/up": "in",
        "self": "in/self",
        "lost": "none",
        "away": "away",
        "l.txt": "out.txt",
    }.items():
        os.symlink(tmp_path / to, tmp_path / "in" / link)
    os.mkfifo(tmp_path / "in" / "pipe.txt")
    assert names(tmp_path / "in") == ["a.txt", "l.txt", "sub/b.txt"]


def test_what_was_taken_and_left_is_told_once(tmp_path, caplog):
    fill(tmp_path, {f"{i}.py": "x = 1" for i in range(12)} | {f"{i}.K{i}": "text" for i in range(10)})
    fill(
        tmp_path,
        {f"b{i}.png": b"\x89PNG\0" for i in range(5)} | {"node_modules/a.js": "x", "\x1b[2J.bin": b"\0"},
    )
    corpus = FolderCorpus(path=tmp_path)
    with caplog.at_level(logging.WARNING):
        assert corpus.text and list(corpus.documents())
    told = [record.getMessage().removeprefix(f"corpus {tmp_path}: ") for record in caplog.records]
    assert told == [
        "took 22 files (12 .py, 1 .k0, 1 .k1, 1 .k2, 1 .k3, 1 .k4, 1 .k5, 1 .k6, 3 others)",
        "left out 6 (\\x1b[2J.bin, b0.png, b1.png, …): binary",
        "left out 1 (node_modules/): build folders",
    ]


def test_a_folder_of_several_encodings(tmp_path, caplog):
    fill(
        tmp_path,
        {"a.txt": "é", "b.txt": "é".encode("utf-16"), "c.txt": "é".encode("cp1252"), "d.txt": "plain"},
    )
    assert FolderCorpus(path=tmp_path).text == "é\n\né\n\nplain"
    assert "(c.txt): not text in encoding='utf-8' but, it seems, in cp1252; set encoding" in caplog.text
    assert FolderCorpus(path=tmp_path, encoding="cp1252").text == "é\n\né\n\né\n\nplain"


def test_patterns_are_of_any_case_and_may_name_folders(tmp_path):
    fill(tmp_path, dict.fromkeys(["a.MD", "b.txt", "docs/c.txt", "x/docs/d.txt", "docs/x/e.txt"], "text"))
    assert names(tmp_path, patterns=["*.md", "docs/*.txt"]) == ["a.MD", "docs/c.txt", "x/docs/d.txt"]
    assert len(names(tmp_path, patterns=["**/*"])) == 5


def test_a_folder_without_text_says_what_is_there(tmp_path):
    fill(tmp_path, {"a.png": b"\0", "dist/a.js": "x", "b.txt": " \n"})
    with pytest.raises(
        CorpusError, match=r"empty; no file with text in it; binary: 1 \(a.png\); build folders: 1 \(dist/\)"
    ) as caught:
        _ = open_corpus(tmp_path).text
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_told(tmp_path, caplog):
    fill(tmp_path, {"a.txt": "text", "shut/b.txt": "text"})
    (tmp_path / "shut").chmod(0)
    try:
        if os.access(tmp_path / "shut", os.R_OK):
            pytest.skip("this user may read everything")
        assert names(tmp_path) == ["a.txt"]
    finally:
        (tmp_path / "shut").chmod(0o755)
    assert "(shut/): cannot be read" in caplog.text


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(fill(tmp_path, {"notes/a.txt": "text"})))
    assert open_corpus("~/notes").text == open_corpus("~/notes/a.txt").text == "text"
    with pytest.raises(CorpusError, match="~nobody-of-this-name/a.txt.*no such file"):
        open_corpus("~nobody-of-this-name/a.txt")
