"""Kalamang and MTOB: which sentences are asked, and how translations are scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import sacrebleu

from lit_cartridges.evals.tasks import EvalError, Kalamang, KalamangCorpus, Mtob, MtobCorpus
from lit_cartridges.evals.tasks.chrf import corpus_chrf, sentence_chrf
from lit_cartridges.evals.tasks.kalamang import split

REAL = Path(__file__).parents[3] / "shared" / "data" / "kalamang"


def kalamang_files(folder: Path, sentences: int = 120) -> dict[str, Path]:
    """The layout of the book and the dictionary, with made-up words."""
    (folder / "grammar").mkdir(parents=True)
    (folder / "grammar" / "02B.tex").write_text("\\section{B}\nSentence \\textit{Wa wb wc} wd.\n")
    (folder / "grammar" / "01A.tex").write_text("\\chapter{A} " + "word " * 40)
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(sentences)]
    rows = [
        {"ID": f"XV9{i:05d}", "Primary_Text": f"{w} ba ca da.", "Translated_Text": f"T {w}"}
        for i, w in enumerate(words)
    ]
    rows += [
        {"ID": "XV1", "Primary_Text": "Wa wb, wc wd?", "Translated_Text": "in the book"},
        {"ID": "XV2", "Primary_Text": "too short", "Translated_Text": "short"},
        {"ID": "XV3", "Primary_Text": "with [a] bracket here", "Translated_Text": "bracket"},
        {"ID": "XV001060", "Primary_Text": "four words are here", "Translated_Text": "Malay"},
        {"ID": "XV4", "Primary_Text": "four words without English", "Translated_Text": ""},
    ]
    file = folder / "examples.csv"
    with file.open("w", newline="") as out:
        table = csv.DictWriter(out, ["ID", "Primary_Text", "Translated_Text", "alt_translation1"])
        table.writeheader()
        table.writerows(rows)
    return {"grammar": folder / "grammar", "examples": file}


def test_no_sentence_is_asked_that_the_corpus_holds(tmp_path):
    files = kalamang_files(tmp_path)
    ke, ek = (Kalamang(**files, direction=way).questions() for way in ("ke", "ek"))
    corpus = KalamangCorpus(path=files["grammar"], examples=files["examples"])
    assert len(ke) == len(ek) == 50 and ke[0].prompt.startswith("You are tasked with translating")
    assert "from Kalamang to English" in ke[0].prompt and "from English to Kalamang" in ek[0].prompt
    assert corpus.text.count("English: T") == 20, "the rest of those that may be asked"
    for one in ke:
        assert one.answer not in corpus.text.splitlines() and one.answer.startswith("T w")
    for sentence in ("in the book", "short", "bracket", "Malay", "without English"):
        assert sentence not in corpus.text and all(sentence not in x.prompt + x.answer for x in (*ke, *ek))
    assert [d.name for d in corpus.documents()] == ["01A.tex", "02B.tex", "sentences"]
    cut = KalamangCorpus(path=files["grammar"], examples=files["examples"], max_characters=20, sentences=1)
    assert cut.text.startswith("\\chapter{A} word wor\n\nKalamang: ") and cut.text.count("English:") == 1


def test_the_split_is_the_one_of_the_real_dictionary():
    if not REAL.is_dir():
        pytest.skip(f"needs the book and the dictionary at {REAL}")
    found = split(REAL / "grammar", REAL / "dictionary" / "examples.csv")
    known = [json.loads(line) for line in (REAL / "sentences.jsonl").read_text().splitlines()]
    for name, own in (("ke", "test_ke"), ("ek", "test_ek"), ("train", "train")):
        theirs = {(x["kalamang"], x["english"]) for x in known if x["split"] == own}
        ours = {pair[::-1] if name == "ek" else pair for pair in found[name]}
        assert ours == theirs and len(found[name]) == len(theirs)


def mtob_files(folder: Path) -> Path:
    """The layout of MTOB's files, with made-up sentences."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "grammar_book.tex").write_text("\\chapter{Book}")
    (folder / "grammar_book_for_claude_medium.txt").write_text("Medium book")
    for name in ("train_examples", "test_examples_ke", "test_examples_ek"):
        pairs = [{"original": f"{name} {i}", "ground_truth": f"truth {i}"} for i in range(4)]
        (folder / f"{name}.json").write_text(json.dumps([{"canary": "x"}, *pairs]))
    return folder


def test_mtob_leaves_out_its_first_entry(tmp_path):
    folder = mtob_files(tmp_path)
    questions = Mtob(path=folder, direction="ek").questions()
    assert [one.answer for one in questions] == [f"truth {i}" for i in range(4)]
    assert '"test_examples_ek 0"' in questions[0].prompt
    text = MtobCorpus(path=folder).text
    assert text.startswith("\\chapter{Book}\n\nKalamang: train_examples 0\nEnglish: truth 0")
    assert MtobCorpus(path=folder, book="medium", sentences=False).text == "Medium book"
    with pytest.raises(EvalError, match="holds no grammar_book_for_claude_long.txt"):
        MtobCorpus(path=folder, book="long")
    (folder / "test_examples_ke.json").write_text('[{}, {"original": "x"}]')
    with pytest.raises(EvalError, match="record 2 has no texts original and ground_truth"):
        Mtob(path=folder)
    (folder / "test_examples_ke.json").unlink()
    with pytest.raises(EvalError, match="cannot be read"):
        Mtob(path=folder)


def test_chrf_is_sacrebleus():
    replies, wanted = ["the cat sat", "a dog", "nothing at all"], ["the cat sat down", "a dog", "something"]
    mean, error = corpus_chrf([replies], wanted)
    assert mean == pytest.approx(sacrebleu.corpus_chrf(replies, [wanted]).score)
    assert error > 0 and mean != pytest.approx(sum(map(sentence_chrf, replies, wanted)) / 3, abs=0.1)
    assert corpus_chrf([wanted], wanted) == (pytest.approx(100), pytest.approx(0))
    both = corpus_chrf([replies, wanted], wanted)[0]
    assert both == pytest.approx((mean + 100) / 2), "the mean over samples"
    assert corpus_chrf([["a"]], ["b"])[1] is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: f["examples"].write_text("ID,Primary_Text\n"), "no column Translated_Text"),
        (lambda f: f["examples"].write_bytes(b"\xff\xfe"), "is no examples.csv"),
        (lambda f: [x.unlink() for x in f["grammar"].iterdir()], "holds no .tex file"),
        (lambda f: (f["grammar"] / "01A.tex").write_bytes(b"\xff\xff"), "cannot be read"),
        (lambda f: kalamang_files(f["examples"].parent / "few", 30), None),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, change, why):
    files = kalamang_files(tmp_path)
    changed = change(files)
    with pytest.raises(EvalError, match=why or "has 30 sentences that may be asked, and more than 100"):
        Kalamang(**(changed if why is None else files))
