"""`python -m tests.gpu.require`: which CUDA device the tests of this folder will run on; fails where there is none."""

from __future__ import annotations

import sys

import torch

if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit(
            f"make test-gpu: torch {torch.__version__} sees no CUDA device, and these tests say nothing without one"
        )
    name, version = torch.cuda.get_device_name(), torch.version.cuda
    print(f"testing on {name}, torch {torch.__version__}, CUDA {version}")
