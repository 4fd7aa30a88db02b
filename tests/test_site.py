"""The documentation as a site: the reference against the public names, its examples, and the strict build."""

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stable_longform

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "api"
PAGES = sorted(REFERENCE.glob("*.md"))
WITH_EXAMPLES = [page for page in PAGES if ">>>" in page.read_text(encoding="utf-8")]


def test_every_public_name_is_in_the_reference():
    index = (REFERENCE / "index.md").read_text(encoding="utf-8")
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in stable_longform.__all__:
        assert f"`{name}`" in index
        value = getattr(stable_longform, name)
        assert isinstance(value, str) or f"\n::: {value.__module__}.{name}\n" in pages  # folders are strings


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if f"- {page}\n" not in navigation} == set()


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_examples_of_the_reference_give_what_they_show(page):
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 0 and results.failed == 0


@pytest.mark.slow
def test_site_builds_without_broken_links(tmp_path):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    # A link that leaves docs/ leads to a page of the site.
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    card = "repository/src/stable_longform/checkpoints/tiny/index.html"
    assert f'href="{card}"' in start and (tmp_path / card).is_file()
    # Names in tables break between their parts only.
    assert "<code>training/<wbr>train_<wbr>dit.py</code>" in (tmp_path / "training.html").read_text(encoding="utf-8")
