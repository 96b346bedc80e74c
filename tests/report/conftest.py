"""A run of the real command on the bundled model, a few steps long."""

from __future__ import annotations

import pytest

from lit_cartridges.cli import main

RECIPE = """
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 4
  log_every_n_steps: 1
  enable_progress_bar: false
  callbacks:
    - class_path: lit_cartridges.callbacks.LongContextEval
      init_args:
        max_new_tokens: 8
        every_n_steps: 2
        task:
          class_path: lit_cartridges.pocket.task.PocketQuestions
          init_args: {seed: 5, num_tokens: 240, num_questions: 6}
model: {model: package:lit_cartridges.pocket/model, num_tokens: 24}
data:
  corpus:
    class_path: lit_cartridges.pocket.corpus.WorldCorpus
    init_args: {seed: 5, num_tokens: 240}
  source:
    class_path: SelfStudy
    init_args:
      seed_prompts: lit_cartridges.pocket.SEED_PROMPTS
      min_chunk_tokens: 40
      max_chunk_tokens: 60
      conversations_per_group: 4
      question_max_tokens: 8
      answer_max_tokens: 8
  groups_per_round: 2
  tokens_per_batch: 128
"""


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """Trained, evaluated as it went, and scored chunk by chunk."""
    place = tmp_path_factory.mktemp("report")
    (place / "recipe.yaml").write_text(RECIPE)
    main(["fit", f"--config={place / 'recipe.yaml'}", f"--trainer.default_root_dir={place / 'run'}"])
    main(["report", str(place / "run"), "--score=8"])
    return place / "run"
