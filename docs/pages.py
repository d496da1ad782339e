"""Pages of the documentation site that lie outside docs/, and links that leave docs/.

MkDocs calls these functions (`hooks` in mkdocs.yaml). The README becomes the first page. A link is
written as GitHub reads it, from one file of the repository to another.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File at the root of the repository -> its page."""
BLOB = "https://github.com/neuroscope/neuroscope/blob/main"
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page with its links as the site needs them."""
    outside = {path: name for name, path in PAGES.items()}
    folder = posixpath.dirname(outside.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
    return _LINK.sub(lambda link: f"]({_target(link[1], folder)}", markdown)


def _target(link: str, folder: str) -> str:
    """Return where a link in a file of a folder of the repository leads to on the site."""
    path = posixpath.normpath(posixpath.join(folder, link))
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"{BLOB}/{path}")
