"""The lines of docs/serving.md, run as they stand against a server."""

from __future__ import annotations

import shutil
import sys

import pytest

from tests.documented import ROOT, blocks, run
from tests.serving.server import serving
from tests.serving.shelves import fill

PAGE = (ROOT / "docs" / "serving.md").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_lines_of_the_page_are_answered(tmp_path):
    with serving(fill(tmp_path / "runs", pocket=1)) as server:
        told = "".join(server.told) + "".join(server.process.stdout.readline() for _ in range(2))
        assert told.startswith(
            f"serving {server.url}/v1 in this process, on cpu:\n  lit_cartridges.pocket/model (no"
        )
        for language, code in blocks(PAGE, "sh", "python"):
            code = code.replace("http://127.0.0.1:8000", server.url)
            if language == "python":
                assert run(tmp_path, sys.executable, "-c", code).strip()
                continue
            for line in code.replace("\\\n", " ").splitlines():
                line = line.replace("curl ", "curl -sSf --max-time 60 ")
                assert run(tmp_path, "bash", "-c", line), line
