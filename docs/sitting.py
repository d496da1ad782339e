"""Output of the commands on a page of the documentation; `make docs-figures` writes it.

A block of code is followed by `<!-- output -->` and `<!-- /output -->` if the page shows what it
prints. All blocks of a page are run in order, in a folder with `experiments/` and `minilm-v2/`.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from docs.figures import REPOSITORY, other_version

PAGES = [REPOSITORY / "docs" / "association.md", REPOSITORY / "docs" / "atlas.md"]
_BLOCK = re.compile(
    r"(```(?P<language>sh|python)\n(?P<code>.*?)```\n)"
    r"(?P<shown>\n<!-- output -->\n.*?<!-- /output -->\n)?",
    re.DOTALL,
)


class Sitting:
    """Folder in which the blocks of a page are run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.names: dict[str, Any] = {}

    def run(self, block: re.Match[str]) -> str:
        """Return a block with what it prints, if that is to be shown."""
        run = self.commands if block["language"] == "sh" else self.python
        printed = run(block["code"])
        if not block["shown"]:
            return block[0]
        return (
            f"{block[1]}\n<!-- output -->\n```text\n{self.plain(printed)}\n```\n<!-- /output -->\n"
        )

    def commands(self, code: str) -> str:
        """Run lines of a shell; return what they print."""
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        printed = ""
        for line in code.splitlines():
            arguments = shlex.split(line, comments=True)
            if arguments[:1] == ["neuroscope"]:
                command = [sys.executable, "-m", *arguments]
                process = subprocess.run(
                    command, cwd=self.folder, env=environment, check=True, stdout=subprocess.PIPE
                )
                printed += process.stdout.decode()
        return printed

    def python(self, code: str) -> str:
        """Run lines of Python; return what they print."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.chdir(self.folder):
            exec(code, self.names)
        return printed.getvalue()

    def plain(self, text: str) -> str:
        """Return a text without the names of this machine and of its runs."""
        text = text.replace(str(self.folder / "home"), "~/.neuroscope")
        text = text.replace(f"{self.folder}/", "")
        text = re.sub(r"\b[0-9a-f]{32}\b", "…", text)
        return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def main() -> None:
    """Write the output of all pages."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(REPOSITORY / "experiments", folder / "experiments")
        other_version(folder / "minilm-v2")
        os.environ["NEUROSCOPE_HOME"] = str(folder / "home")
        for page in PAGES:
            text = page.read_text(encoding="utf-8")
            page.write_text(_BLOCK.sub(Sitting(folder).run, text), encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main()
