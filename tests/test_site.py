"""The documentation site; `make docs` builds it."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import neuroscope as ns

ROOT = Path(__file__).parents[1]
SETTINGS = YAML(typ="safe").load(ROOT / "mkdocs.yaml")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def leaves(navigation):
    """Yield the pages of a navigation, depth first."""
    for entry in navigation:
        for value in entry.values():
            yield from leaves(value) if isinstance(value, list) else [value]


def anchors(page):
    """Return the anchors of the headings of a page, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_api_page_has_every_public_name_once():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^::: neuroscope\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(ns.__all__)


def test_the_navigation_has_every_page_of_the_docs():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(leaves(SETTINGS["nav"])) - pages == {"index.md", "contributing.md", "changelog.md"}
    assert pages <= set(leaves(SETTINGS["nav"]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_and_headings_of_the_repository(page):
    for link in re.findall(r"\]\((?![a-z]+:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link
