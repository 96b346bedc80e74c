"""Two cartridges of two texts, read side by side by one model: `python examples/compose.py`.

Each is trained alone, and they are joined without training. A minute on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from train_and_chat import MODEL, TEXTS, train

from lit_cartridges import Cartridge
from lit_cartridges.models import load_model, load_tokenizer


def main(folder: Path) -> None:
    """Train two, join them, ask about either text."""
    parts = [train(TEXTS / f"{name}.txt", folder / name) for name in ("sossa", "zessa")]
    both = Cartridge.compose(parts)
    both.save_pretrained(folder / "both")
    print(f"{' + '.join(str(part.num_tokens) for part in parts)} = {both.num_tokens} positions")
    chat = both.attach(load_model(MODEL), load_tokenizer(MODEL))
    for question in ("of Sossa tell me the city .", "of Zessa tell me the city ."):
        print(f"{question}  {chat.chat(question)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/compose"))
