"""Train a cartridge of a text, save it, load it again, and ask it: `python examples/train_and_chat.py`.

On the bundled model and a text of 159 tokens; half a minute on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lightning as L

from lit_cartridges import Cartridge, LitCartridge, SelfStudyDataModule
from lit_cartridges.data import SelfStudy
from lit_cartridges.models import load_model, load_tokenizer
from lit_cartridges.pocket import SELF_STUDY

MODEL = "package:lit_cartridges.pocket/model"
TEXTS = Path(__file__).parent / "texts"


def train(text: Path, folder: Path, *, num_tokens: int = 20, max_steps: int = 200) -> Cartridge:
    """Self-study of ``text``: what the model asks and answers, and logs of the training, lie in ``folder``."""
    module = LitCartridge(model=MODEL, num_tokens=num_tokens)
    data = SelfStudyDataModule(corpus=text, source=SelfStudy(**SELF_STUDY), uses=8, tokens_per_batch=512)
    trainer = L.Trainer(max_steps=max_steps, accelerator="cpu", default_root_dir=folder)
    trainer.fit(module, data)
    return module.cartridge


def main(folder: Path) -> None:
    """Train, save, load, ask."""
    train(TEXTS / "sossa.txt", folder).save_pretrained(folder / "cartridge")
    cartridge = Cartridge.from_pretrained(folder / "cartridge")
    chat = cartridge.attach(load_model(MODEL), load_tokenizer(MODEL))
    for question in ("of Sossa tell me the city .", "Sossa plays which instrument ?"):
        print(f"{question}  {chat.chat(question)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/train_and_chat"))
