"""A push and a download by the real client, against a Hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from lit_cartridges.attention.prefill import prefill
from lit_cartridges.cartridge import Cartridge, Fingerprint, Provenance
from lit_cartridges.cartridge_files.facts import Score, with_scores
from lit_cartridges.conversations.renderer import ChatRenderer
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket import World
from lit_cartridges.routing import load_router, save_router
from lit_cartridges.routing.router_file import owner_of
from lit_cartridges.text import text_ids
from tests.cartridge_files.hub_server import Hub
from tests.routing.routers import made

POCKET = "package:lit_cartridges.pocket/model"
# One process for the whole visit: the client reads its settings when it is imported.
VISIT = """
import json, sys
from lit_cartridges import Cartridge
from lit_cartridges.routing import load_router

told = {}
def tried(name, action):
    try:
        told[name] = str(action())
    except Exception as error:
        told[name] = f"{type(error).__name__}: {error}"

mine = Cartridge.from_pretrained(sys.argv[1])
tried("anonymous", lambda: mine.push_to_hub("me/mine"))
tried("somebody else", lambda: mine.push_to_hub("me/mine", token="hf_you"))
tried("bad name", lambda: mine.push_to_hub("me/mi ne", token="hf_me"))
tried("first", lambda: mine.push_to_hub("me/mine", token="hf_me", private=True, commit_message="one"))
tried("again", lambda: mine.push_to_hub("me/mine", token="hf_me", license="cc-by-4.0", commit_message="two"))
tried("unseen", lambda: Cartridge.from_pretrained("me/mine"))
tried("missing", lambda: Cartridge.from_pretrained("me/other", token="hf_me"))
back = Cartridge.from_pretrained("me/mine", token="hf_me")
told["same"] = all(a.equal(b) for a, b in zip(mine.state_dict().values(), back.state_dict().values(), strict=True))
told["license"] = back.provenance.notes["license"]
tried("public", lambda: mine.push_to_hub("me/public", token="hf_me", router=load_router(sys.argv[1])))
told["router"] = load_router("me/public", token="hf_me").threshold
other = Cartridge.compose([mine, mine])
tried("another's router", lambda: other.push_to_hub("me/other", token="hf_me", router=load_router(sys.argv[1])))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def visit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    corpus = World(5).corpus(150)
    model, tokenizer = load_model(POCKET, dtype="float32"), load_tokenizer(POCKET)
    context = ChatRenderer(tokenizer).context_ids(text_ids(tokenizer, corpus.text))
    notes = {
        "corpus": {"name": "world.txt", "tokens": 1510},
        "license": "apache-2.0",
        "settings": {"data.uses": 2},
    }
    known = Provenance(base_model=POCKET, fingerprint=Fingerprint.of_config(model.config), notes=notes)
    score = Score(
        task="Facts",
        system="cartridge",
        accuracy=0.9,
        accuracy_standard_error=0.03,
        answer_log_likelihood=-0.1,
        num_questions=100,
        num_kv_tokens=152,
    )
    cartridge = Cartridge(*prefill(model, context), provenance=with_scores(known, [score]))
    place = cartridge.save_pretrained(folder / "cartridge")
    others = [f"w{i}" for i in range(30)]
    save_router(replace(made(model, tokenizer, ["who ?", "why ?"], others), owner=owner_of(place)), place)
    with Hub() as hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        run = [sys.executable, "-c", VISIT, str(folder / "cartridge")]
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        yield hub, told, folder, environment


def test_a_push_creates_the_repository_and_a_second_adds_a_commit(visit):
    hub, told, _, _ = visit
    repository = hub.repositories["me/mine"]
    assert repository.private and not hub.repositories["me/public"].private
    assert repository.commits == ["one", "two"]
    assert set(repository.files) == {"cartridge.safetensors", "cartridge.json", "README.md"}
    for name in ("first", "again", "public"):
        assert told[name].startswith(f"{hub.url}/me/") and "/commit/" in told[name]
    assert any(line.startswith("PUT /upload/") for line in hub.asked), "tensors go by LFS"


def test_what_comes_back_is_the_cartridge(visit):
    _, told, _, _ = visit
    assert told["same"] is True and told["license"] == "cc-by-4.0"


def test_a_router_goes_along_and_anothers_is_refused(visit):
    hub, told, folder, _ = visit
    assert told["router"] == load_router(folder / "cartridge").threshold
    assert told["another's router"].startswith("RouterError: ") and "me/other" not in hub.repositories


def test_the_hub_reads_the_facts_off_the_card(visit):
    hub, _, _, _ = visit
    front, body = hub.repositories["me/mine"].files["README.md"].decode().split("---\n")[1:3]
    known = yaml.safe_load(front)
    assert known["license"] == "cc-by-4.0"
    (index,) = known["model-index"]
    (result,) = index["results"]
    assert index["name"] == "mine" and result["dataset"]["name"] == "Facts"
    assert result["metrics"][0]["type"] == "accuracy" and result["metrics"][0]["value"] == 0.9
    for fact in (
        "world.txt",
        "1,510 tokens",
        "Compression: 10.0×",
        "| data.uses | 2 |",
        "| cartridge | Facts | 152 |",
    ):
        assert fact in body


def test_the_code_on_the_hubs_card_works_from_there(visit):
    hub, _, _, environment = visit
    card = hub.repositories["me/public"].files["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    assert 'Cartridge.from_pretrained("me/public")' in code
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        ("anonymous", "knows no token of ours (401); log in by `hf auth login`, set HF_TOKEN"),
        ("somebody else", "does not let our token do that (403)"),
        ("bad name", "repo_id='me/mi ne'"),
        ("unseen", "knows no token of ours (401)"),
        ("missing", "has nothing of that name for us (404)"),
    ],
)
def test_a_refusal_is_one_line_with_what_would_work(visit, attempt, said):
    _, told, _, _ = visit
    assert said in told[attempt] and "\n" not in told[attempt]
    assert told[attempt].startswith(("HubError: repo_id='me/mi", "CartridgeFileError: path='me/"))


def test_no_repository_is_left_by_a_refused_push(visit):
    hub, _, _, _ = visit
    assert set(hub.repositories) == {"me/mine", "me/public"}
