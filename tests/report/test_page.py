"""The page: all that is known stands on it, nothing on it runs or is fetched but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.evals.result_file import Evaluation
from lit_cartridges.report.corpus_parts import CorpusPart
from lit_cartridges.report.facts import Curve, RunFacts
from lit_cartridges.report.gathering import gather, gather_run, rows_of
from lit_cartridges.report.page import page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)> & <!-- ]]> \u2028\u202e\x1b[2J \x00 %{x} 'a\"b"
CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)


class Outline(HTMLParser):
    """Tags with their attributes, texts, and the scripts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.figures = [], [], [], []
        self._script = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(attributes)))
        if tag == "script":
            self._script = self.figures if dict(attributes).get("type") else self.scripts

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        (self.texts if self._script is None else self._script).append(data)


def facts(said="plain") -> RunFacts:
    """All kinds of facts, with a text of others in every place."""
    reply = {"prompt": said, "answer": said, "reply": said, "right": False, "log_likelihood": -0.5}
    figures = {
        "accuracy": 0.5,
        "accuracy_standard_error": 0.1,
        "answer_log_likelihood": -1.0,
        "prefill_s": 0.0,
    }
    counts = {
        "seconds_per_answer": 0.1,
        "num_kv_tokens": 8,
        "kv_bytes": 64,
        "num_questions": 1,
        "batch_size": 1,
    }
    result = {"system": said, "task": said, **figures, **counts, "replies": [reply]}
    known = {"task": said, "results": [result], "corpus": said, "corpus_tokens": 80}
    held = Evaluation.parse(known)
    turns = (Message("user", said, []), Message("assistant", said, []))
    curve = Curve(name=said, steps=[0, 1], values=[0.1, 0.2], errors=[0.1, 0.1])
    return RunFacts(
        name=said,
        headline={said: said},
        rows=rows_of(held),
        losses=[curve],
        accuracies=[curve],
        evaluations=[held],
        parts=[CorpusPart(start_token=0, num_tokens=80, num_conversations=1, loss=0.5, text=said)],
        conversations=[Conversation(turns, said, {"seed_prompt": said})],
        settings={said: said},
        left_out=[said],
    )


def test_every_figure_reply_reference_and_setting_of_a_run_is_there(run_folder):
    known = gather_run(run_folder)
    outline = Outline((run_folder / "report.html").read_text())
    text = " ".join(outline.texts)
    held = json.loads((run_folder / "evaluations" / "eval.json").read_text())
    assert {result["system"] for result in held["results"]} == {
        "cartridge",
        "icl",
        "truncated_icl",
        "no_context",
    }
    for result in held["results"]:
        assert f"{result['accuracy']:.3f} ± {result['accuracy_standard_error']:.3f}" in text
        for reply in result["replies"]:
            assert all(reply[name] in text for name in ("prompt", "answer", "reply"))
    assert len(known.settings) > 40 and all(name in text for name in known.settings)
    for fact in (
        "package:lit_cartridges.pocket/model",
        "world-5-0-240",
        "24 positions",
        "FirstTokens",
        "apache-2.0",
    ):
        assert fact in text
    assert not known.left_out and all(part.text[:20] in text for part in known.parts)
    assert len(outline.figures) == 4  # compression, loss, accuracy, the corpus


def test_nothing_is_fetched_and_nothing_else_may_run():
    outline = Outline(page([facts()], title="t"))
    for tag, attributes in (tag for tag in outline.tags if isinstance(tag, tuple)):
        assert not {"src", "href", "srcset", "action"} & {name for name, _ in attributes}, tag
        assert not any(name.startswith("on") for name, _ in attributes)
    (policy,) = [
        dict(a)["content"]
        for tag, a in (t for t in outline.tags if len(t) == 2)
        if tag == "meta" and "http-equiv" in dict(a)
    ]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in outline.scripts]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and digests == allowed
    assert "unsafe-eval" not in policy and "'unsafe-inline'" not in policy.partition("style-src")[0]


@pytest.mark.parametrize("several", [False, True])
def test_what_others_wrote_stays_text(several):
    tame, hostile = (
        Outline(page([facts(said), facts(said)] if several else [facts(said)], title=said, intro=said))
        for said in ("plain", HOSTILE)
    )
    assert tame.tags == hostile.tags
    for text in hostile.texts + hostile.figures:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)
    for figure in map(json.loads, hostile.figures):
        shown = [trace[key] for trace in figure["data"] for key in ("name", "hovertext") if key in trace]
        texts = [text for one in shown for text in ([one] if isinstance(one, str) else one)]
        assert texts and not any(re.search("<(?!/?b>|br>)", text) for text in texts)


def test_runs_are_laid_beside_each_other(run_folder):
    one = gather_run(run_folder)
    other = replace(one, name="another")
    outline = Outline(page([one, other], title="two"))
    loss = json.loads(outline.figures[1])
    assert [trace["name"] for trace in loss["data"]] == ["run", "another"]
    header = [text for text in outline.texts if text.endswith(" right)")]
    names = ["run", "another", "icl", "truncated_icl", "no_context"]
    assert [text.partition(" (")[0] for text in header] == names


def test_questions_that_every_cartridge_answers_can_be_hidden(run_folder):
    """By the style sheet, where the box is checked."""
    one = gather_run(run_folder)
    (held,) = one.evaluations
    own = next(result.replies for result in held.results if result.system == "cartridge")
    text = page([one], title="t")
    rows = re.findall(
        r"<tr( class=\"all-right\")?><td>", text.partition("<h2>Replies")[2].partition("<h2>")[0]
    )
    assert [bool(mark) for mark in rows] == [reply.right for reply in own]
    assert ".replies:has(input:checked) tr.all-right { display: none; }" in text


def test_a_run_without_anything_but_its_logs_has_a_page(run_folder, tmp_path):
    shutil.copytree(run_folder / "logs", tmp_path / "bare" / "logs")
    (known,) = gather(tmp_path / "bare")
    assert known.losses and not known.rows and "Training" in page([known], title="bare")


def browsed(url, folder):
    """The page as a browser has it in the end, and what it said."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}"]
    options += ["--virtual-time-budget=10000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, url], capture_output=True, text=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_every_plot_and_has_nothing_to_complain_of(run_folder, tmp_path):
    shown, said = browsed((run_folder / "report.html").as_uri(), tmp_path / "browser")
    assert shown.count('data-drawn="yes"') == shown.count('class="plot"') == 4
    assert shown.count('class="main-svg"') >= 4
    assert not said


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_runs_and_fetches_nothing_that_got_in(tmp_path):
    intruder = '<p id="x">tame</p><script>document.getElementById("x").textContent = "wild"</script><img src="http://127.0.0.1:9/">'
    file = tmp_path / "page.html"
    file.write_text(page([facts()], title="t").replace("<h1>", f"{intruder}<h1>"))
    shown, said = browsed(file.as_uri(), tmp_path / "browser")
    assert '<p id="x">tame</p>' in shown and sum("Content Security Policy" in line for line in said) == 2
