"""`make test-gpu` on a machine without a CUDA device."""

from __future__ import annotations

import os
import subprocess
import sys


def test_it_says_so_in_one_line_and_fails():
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.require"], env=hidden, capture_output=True, text=True
    )
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "sees no CUDA device" in line
