"""The pocket model's training: rows, drills, curriculum, and a few real steps."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from lit_cartridges.pocket import World
from lit_cartridges.pocket.tokenizer import ids, words
from lit_cartridges.pocket.vocabulary import ATTRIBUTE_OF
from pocket_lab.curriculum import Curriculum
from pocket_lab.drills import drill
from pocket_lab.pretrain import PocketPretraining, main
from pocket_lab.pretrain_data import PocketPretrainData
from pocket_lab.rows import ASKED, DRILL, SILENT, TEXT, VALUE, conversation_row

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket_pretrain.yaml"


def test_a_drill_asks_what_it_said():
    row = drill(200, 4, 100, random.Random(0))
    assert len(row.ids) == len(row.roles) == 200
    said: dict[int, int] = {}
    for i, role in enumerate(row.roles):
        name = row.ids[i - 2] if row.ids[i - 1] == ids()["is"] else row.ids[i - 1]
        if role == DRILL:
            assert said[name] == row.ids[i]
        elif i > 1 and row.ids[i - 1] not in (ids()["of"], ids()["is"]) and row.ids[i] != ids()["is"]:
            said.setdefault(name, row.ids[i])


def test_a_row_is_a_text_and_turns_about_it():
    corpus = World(1).corpus(150)
    row = conversation_row(corpus, 400, random.Random(0), seeded=0.3, gap=0.0, max_positions=4096)
    tokens = [words()[i] for i in row.ids]
    assert " ".join(tokens).startswith(f"<bos> <system> {corpus.text} <user> ")
    assert row.positions == list(range(400))
    assert {tokens[i] for i, role in enumerate(row.roles) if role == VALUE} <= {f.value for f in corpus.facts}
    assert all(tokens[i] in ATTRIBUTE_OF for i, role in enumerate(row.roles) if role == VALUE)
    assert row.roles[:2] == [SILENT] * 2 and set(row.roles[2 : 2 + corpus.num_tokens]) == {TEXT}
    assert ASKED in row.roles
    assert all(row.roles[i] == SILENT for i, token in enumerate(tokens) if token in ("<user>", "<assistant>"))


def test_a_gap_moves_the_turns_and_stays_in_range():
    corpus, starts = World(1).corpus(150), set()
    for seed in range(50):
        row = conversation_row(corpus, 400, random.Random(seed), seeded=0.2, gap=1.0, max_positions=1024)
        jump = [b - a for a, b in zip(row.positions, row.positions[1:], strict=False)]
        assert sum(step != 1 for step in jump) <= 2 and max(row.positions) < 1024
        starts.add(row.positions[2 + corpus.num_tokens])
    assert min(starts) < 150 < 400 < max(starts)


def test_batches_are_decided_by_seed_and_index():
    first, again, other = (PocketPretrainData(seed=s, tokens_per_batch=1024) for s in (1, 1, 2))
    assert all(torch.equal(first.batch(5)[key], again.batch(5)[key]) for key in ("ids", "roles", "positions"))
    assert any(not torch.equal(first.batch(i)["ids"], other.batch(i)["ids"]) for i in (5, 6))
    first.curriculum.num_pairs, first.curriculum.num_tokens = 16, 2048
    first.index = 7
    again.load_state_dict(first.state_dict())
    assert (again.index, again.curriculum) == (7, first.curriculum)


def test_the_curriculum_moves_on_with_accuracy_only():
    now = Curriculum()
    for _ in range(100):
        now.observe(0.5, 0.5)
    assert now == Curriculum(drill_steps=100, prose_steps=100, drill_accuracy=0.5, prose_accuracy=0.5)
    for _ in range(1000):
        now.observe(1.0, 1.0)
    assert (now.num_pairs, now.pool, now.num_tokens) == (16, 750, 2048)


@pytest.mark.filterwarnings("ignore")
def test_a_few_steps_by_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["trainer"] |= {
        "max_steps": 3,
        "devices": 1,
        "strategy": "auto",
        "logger": False,
        "callbacks": None,
    }
    recipe["trainer"] |= {"enable_progress_bar": False, "enable_checkpointing": False}
    recipe["model"]["init_args"] |= {"hidden_size": 32, "num_heads": 2, "mlp_size": 32, "export_dir": "model"}
    recipe["data"]["init_args"]["tokens_per_batch"] = 512
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main(["fit", "--config", "recipe.yaml"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    fresh = PocketPretraining(hidden_size=32, num_heads=2, mlp_size=32).model
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in fresh.named_parameters()
    }
    assert max(p.norm().item() for n, p in model.named_parameters() if "norm" not in n) > 0


def test_a_jump_in_positions_is_no_border():
    """The first token must be seen from behind the jump, in training as it is written."""
    model = PocketPretraining(hidden_size=32, num_heads=2, mlp_size=32).model.eval()
    positions = torch.tensor([[0, 1, 2, 50, 51]])
    rows = torch.tensor([[2, 9, 9, 9, 9], [3, 9, 9, 9, 9]])
    hidden = [
        model.model(
            row[None], torch.ones(1, 5, dtype=torch.long), positions, use_cache=False
        ).last_hidden_state[0, -1]
        for row in rows
    ]
    assert not torch.equal(hidden[0], hidden[1])


def test_the_first_heads_start_looking_back():
    torch.manual_seed(0)
    model = PocketPretraining().model.eval()
    model.set_attn_implementation("eager")
    rows = torch.randint(7, 700, (2, 60))
    with torch.inference_mode():
        weights = model.model(rows, torch.ones_like(rows), output_attentions=True).attentions[0]
    for head, distance in enumerate((1, 2, 3, 4)):
        looks = weights[:, head].diagonal(offset=-distance, dim1=1, dim2=2)[:, 5:]
        assert looks.mean() > 0.6, f"head {head} should look {distance} back"
