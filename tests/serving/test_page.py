"""The page, in a browser: it is chosen, asked and answered by mouse and keyboard, and what it is told stays text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lit_cartridges.conversations.conversation import Conversation, Message
from lit_cartridges.conversations.parquet import write_conversations
from tests.serving.browser import CHROMIUM, browser
from tests.serving.server import serving
from tests.serving.shelves import SERVED, fill, of_text, pocket, task

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

HOSTILE = (
    "</div><script>document.title = 'got in'</script><img src=x onerror=\"document.title = 'got in'\">&amp;"
)
ANSWERED = "document.body.dataset.state == 'answered'"
READY = "document.body.dataset.state == 'ready'"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "text.txt").write_text(task(1).corpus.text)
    shelf = fill(folder / "runs", a=1, b=2)
    named = of_text(2)
    named.provenance = replace(named.provenance, notes={"corpus": {"name": HOSTILE, "tokens": 9}})
    named.save_pretrained(shelf / "b")
    ids = np.asarray([1], dtype=np.int32)
    asked = task(1).questions()[0].prompt
    messages = Message("user", f"{asked} {HOSTILE}", ids), Message("assistant", "so .", ids)
    write_conversations(shelf / "a" / "recording" / "part-0.parquet", [Conversation(messages, HOSTILE, {})])
    with serving(shelf, "--corpora", str(folder / "text.txt")) as running:
        yield running


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture(autouse=True)
def nothing_got_in(page):
    page.said.clear()
    yield
    assert (
        page.run("document.title") == "Cartridges"
        and page.run("document.querySelectorAll('img').length") == 0
    )


def texts(page, selector: str) -> list[str]:
    return page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(one => one.textContent)")


def said(seed: int, question: str) -> str:
    model, tokenizer = pocket()
    return of_text(seed).attach(model, tokenizer).chat(question, max_new_tokens=64)


def test_the_same_question_to_a_cartridge_the_corpus_and_the_model(page, server):
    page.open(f"{server.url}/")
    page.until(READY)
    page.click("#cartridges input[value='a']")
    page.click("#beside input[value='a:icl']")
    page.click(f"#beside input[value='{SERVED}']")
    assert texts(page, "h2") == ["a", "a:icl", f"{SERVED} (no cartridge)"]
    first, second = (question.prompt for question in task(1).questions()[:2])
    page.click("#question")
    page.write(first)
    page.press("Enter")
    page.until(f"{ANSWERED} && document.querySelectorAll('.figures').length == 3")
    told = texts(page, ".said:not(.user, .chunk)")
    assert texts(page, ".chunk") == [HOSTILE] and HOSTILE in texts(page, "li")[0]
    assert told[0] == told[1] == said(1, first) and told[2] not in ("", "…", told[0])
    figures = texts(page, ".figures")
    held = of_text(1).num_tokens
    assert all(f"{held} of them cached" in text for text in figures[:2]) and "0 of them cached" in figures[2]
    assert all(" s · first " in text and " tokens written" in text and "KV " in text for text in figures)
    page.write(second)  # the focus has stayed
    page.click("#send")
    page.until(f"{ANSWERED} && document.querySelectorAll('.figures').length == 6")
    model, tokenizer = pocket()
    whole = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant", "user"), (first, told[0], second), strict=True)
    ]
    assert texts(page, ".said:not(.user, .chunk)")[3] == of_text(1).attach(model, tokenizer).chat(
        whole, max_new_tokens=64
    )
    assert page.said == []


def test_cartridges_are_composed_in_the_order_of_choosing_and_names_stay_text(page, server):
    page.open(f"{server.url}/")
    page.until(READY)
    page.click("#cartridges input[value='b']")
    page.click("#cartridges input[value='a']")
    assert texts(page, "h2") == ["b+a"]
    assert HOSTILE in texts(page, "#cartridges small")[1]
    page.click("#cartridges input[value='b']")
    assert texts(page, "h2") == ["a"] and page.said == []


def test_an_error_is_told_and_the_chat_goes_on(page, server):
    page.open(f"{server.url}/")
    page.until(READY)
    page.click("#cartridges input[value='a']")
    page.run("document.getElementById('longest').value = 100000")
    page.click("#question")
    page.write("who ?")
    page.press("Enter")
    page.until(f"{ANSWERED} && document.querySelector('article .wrong')")
    assert "leave room for" in texts(page, "article .wrong")[0]
    page.run("document.getElementById('longest').value = 64")
    question = task(1).questions()[0].prompt
    page.write(question)
    page.press("Enter")
    page.until(f"{ANSWERED} && document.querySelectorAll('.figures').length == 2")
    assert texts(page, ".said:not(.user, .chunk)")[1] == said(1, question)


def test_a_reply_in_pieces_is_shown_as_it_comes_and_stays_text(page, server):
    page.open(f"{server.url}/")
    page.until(READY)
    pieces = [
        json.dumps({"choices": [{"delta": {"content": part}}]}, ensure_ascii=False)
        for part in (HOSTILE[:20], HOSTILE[20:], " é🙂")
    ]
    data = "".join(f"data: {piece}\n\n" for piece in pieces)
    script = """
      window.fetch = async () => new Response(new ReadableStream({ start(out) {
        const data = new TextEncoder().encode(%s);
        window.more = () => { out.enqueue(data.slice(0, 130)); window.more = () => {
          for (let at = 130; at < data.length; at += 3) out.enqueue(data.slice(at, at + 3));  // through characters
          out.close(); }; };
        window.more();
      } })); undefined
    """
    page.run(script % json.dumps(data))
    page.click("#question")
    page.write(HOSTILE)
    page.press("Enter")
    page.until("document.querySelector('.said:not(.user)').textContent.length > 5")
    assert (
        HOSTILE.startswith(texts(page, ".said:not(.user)")[0])
        and page.run("document.body.dataset.state") == "asking"
    )
    page.run("window.more()")
    page.until(ANSWERED)
    assert texts(page, ".said") == [HOSTILE, HOSTILE + " é🙂"] and page.said == []


@pytest.mark.parametrize(("width", "dark"), [(360, False), (390, True), (1400, True)])
def test_it_fits_a_phone_and_the_dark(page, server, width, dark):
    page.open(f"{server.url}/", width=width, dark=dark)
    page.until(READY)
    page.click("#cartridges input[value='b']")
    page.click("#question")
    page.write("w" * 300)
    page.click("#send")
    page.until(ANSWERED)
    assert page.run("document.documentElement.scrollWidth") <= width
    back = page.run("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")


def test_the_keyboard_is_enough(page, server):
    page.open(f"{server.url}/")
    page.until(f"{READY} && document.activeElement.id == 'question'")
    page.run("document.querySelector('#cartridges input').focus()")
    page.press(" ")
    assert texts(page, "h2") == ["a"]
    for _ in range(20):
        page.press("Tab")
        if page.run("document.activeElement.id") == "question":
            break
    page.write("who ?")
    page.press("Enter")
    page.until(ANSWERED)
    assert len(texts(page, ".figures")) == 1


def test_it_asks_for_the_key_and_nothing_runs_that_is_not_its_own(page, tmp_path):
    with serving(fill(tmp_path / "runs", a=1), "--api_key", "s3cret") as running:
        page.open(f"{running.url}/")
        page.until("document.getElementById('trouble').textContent.includes('API key')")
        page.run("document.querySelector('details').open = true")
        page.click("#key")
        page.write("s3cret")
        page.press("Tab")
        page.until("document.querySelectorAll('#cartridges input').length == 1")
        assert texts(page, "#trouble") == [""]
        page.said.clear()
        page.run(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(HOSTILE)})")
        page.until("document.querySelector('img')")
        page.run("document.querySelector('img').remove()")
        assert any("Content Security Policy" in one for one in page.said)
