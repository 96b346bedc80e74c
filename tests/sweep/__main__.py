"""`python -m tests.sweep [NAME …] [--write]`: try every language model of transformers, and print what became of each."""

from __future__ import annotations

import argparse
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers

from tests.sweep.document import counts, lists, write
from tests.sweep.outcome import outcome_of
from tests.sweep.tiny_lms import names


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("names", nargs="*", help="model types, or type+variant; all of them if none is given")
    parser.add_argument("--write", action="store_true", help="put counts and lists into docs/models.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    outcomes = [outcome_of(name) for name in options.names or names()]
    print(f"transformers {transformers.__version__}\n\n{counts(outcomes)}\n\n{lists(outcomes)}")
    if options.write:
        write(outcomes, transformers.__version__)


if __name__ == "__main__":
    main()
