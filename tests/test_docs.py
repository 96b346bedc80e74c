"""Documentation that points somewhere: links lead to files, every page is in the index, cited laws exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_in_the_index():
    named = set(LINK.findall((ROOT / "docs" / "index.md").read_text()))
    assert {page.name for page in PAGES} - {"index.md"} <= named


def test_the_api_page_is_what_the_docstrings_say():
    written = runpy.run_path(str(ROOT / "docs" / "api_page.py"))["page"]()
    assert (ROOT / "docs" / "api.md").read_text() == written, "make api"


def test_cited_laws_exist():
    laws = len(re.findall(r"^\d+\. ", (ROOT / "docs" / "laws.md").read_text(), flags=re.MULTILINE))
    cited = {
        int(number)
        for folder in ("lit_cartridges", "callbacks", "tests", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        for number in re.findall(r"\blaws? (\d+)", file.read_text())
    }
    assert cited and max(cited) <= laws == 12
