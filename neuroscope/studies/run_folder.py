"""Files of a run: experiment, provenance, prompts, tables, figures, report and activations."""

import datetime
import itertools
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.activations import Provenance
from neuroscope.experiment import Experiment, Fingerprints, PromptSource
from neuroscope.experiment_files import yaml_text
from neuroscope.prompt_files import write_prompts
from neuroscope.prompts import Prompts
from neuroscope.reporting.page import NamedFigure, Page, PageFigure, render_page
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.sites import COMPONENTS
from neuroscope.storage.manifest import MANIFEST
from neuroscope.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd

MOST_COPIED = 64 * 2**20
"""Maximum bytes of activations that are copied into a run; else only the manifest is copied."""
MOST_SHOWN = 1000
"""Maximum number of prompts whose tokens are listed in a table."""


@dataclass(frozen=True)
class RunFolder:
    """Folder with the files of one run, under the names that they have in MLflow.

    >>> folder = RunFolder(path)
    >>> folder.table("compare", rows)   # tables/compare.csv

    Existing files are replaced, so that a step can be retried.
    """

    path: Path

    def experiment(self, experiment: Experiment, fingerprints: Fingerprints) -> None:
        """Write `experiment.yaml`, which repeats the run, and the prompt files that it reads."""
        document = experiment.document()
        document["fingerprints"] = fingerprints.model_dump()
        if "models" in document:
            names = list(fingerprints.models)
            twice = len(document["models"]) > len(set(document["models"]))
            document["models"] = names * 2 if twice else names  # two number formats of one model
        sources = document.get("prompts", [])
        entries = sources if isinstance(sources, list) else [sources]
        for number, source in enumerate(experiment.prompt_sources()):
            if source.file:
                entries[number] |= self._prompt_file(source, number)
        self._text("experiment.yaml", yaml_text(document))

    def provenance(self, provenance: Provenance) -> None:
        """Write `provenance.json`."""
        self._text("provenance.json", json.dumps(provenance.to_dict(), indent=1))

    def table(self, name: str, rows: "Sequence[Any] | pd.DataFrame") -> None:
        """Write instances of one dataclass, or a data frame, to `tables/<name>.csv`."""
        frame = rows_to_frame(rows) if isinstance(rows, Sequence) else rows
        frame.to_csv(self._subfolder("tables") / f"{name}.csv", index=False)

    def prompts(self, prompts: Prompts) -> None:
        """Write `tables/prompts.csv` for the first `MOST_SHOWN` prompts."""
        import pandas as pd

        shown = itertools.islice(prompts, MOST_SHOWN)
        rows = [{"id": prompt.id, "text": prompt.text, **prompt.labels} for prompt in shown]
        self.table("prompts", pd.DataFrame(rows))

    def tokens(self, prompts: Prompts, tokens: Iterable[Tokens]) -> None:
        """Write `tables/tokens.csv` for the first `MOST_SHOWN` prompts."""
        import pandas as pd

        shown = itertools.islice(zip(prompts, tokens, strict=False), MOST_SHOWN)
        columns = ["prompt", "position", "token", "special"]
        rows = [
            (prompt.id, position, text, special)
            for prompt, read in shown
            for position, (text, special) in enumerate(zip(read.texts, read.special, strict=True))
        ]
        self.table("tokens", pd.DataFrame(rows, columns=columns))

    def figures(self, figures: Iterable[NamedFigure]) -> list[PageFigure]:
        """Write figures to `plots/` and return them for the report."""
        from neuroscope.reporting.plots import save_png

        page_figures = []
        for name, caption, figure in figures:
            path = self._subfolder("plots") / name
            save_png(figure, path)
            page_figures.append(PageFigure(name, caption, path.read_bytes()))
        return page_figures

    def report(
        self,
        template: tuple[str, str],
        title: str,
        *,
        provenance: Mapping[str, Any],
        headline: str = "",
        note: str = "",
        warnings: Sequence[str] = (),
        links: Mapping[str, str] | None = None,
        component: str = "",
        **parts: Any,
    ) -> None:
        """Write `report.html` from a template, given its package and file; see `render_page`."""
        site = f"{component}: {COMPONENTS[component]}." if component else ""
        page = Page(
            title=title,
            headline=headline,
            note=note,
            warnings=warnings,
            provenance=provenance,
            links=links or {},
            date=datetime.datetime.now().astimezone(),
            site=site,
        )
        self._text("report.html", render_page(template, page, **parts))

    def activations(self, source: Path) -> None:
        """Copy stored activations to `activations/`.

        Of more than `MOST_COPIED` bytes, copy only the manifest and write the path of the folder.
        """
        size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        target = self.path / "activations"
        if size <= MOST_COPIED:
            shutil.copytree(source, target, dirs_exist_ok=True)
            return
        target.mkdir(exist_ok=True)
        shutil.copy(source / MANIFEST, target / MANIFEST)
        (target / "address.txt").write_text(f"{source}\n", encoding="utf-8")

    def _prompt_file(self, source: PromptSource, number: int) -> dict[str, Any]:
        """Write the prompts of a file as JSON Lines, and return the keys to read them again."""
        name = "prompts.jsonl" if number == 0 else f"prompts-{number + 1}.jsonl"
        write_prompts(self.path / name, source.prompts(), source.text_column)
        return {"file": name, "label_columns": None}

    def _text(self, name: str, text: str) -> None:
        """Write a text file."""
        (self.path / name).write_text(text, encoding="utf-8")

    def _subfolder(self, name: str) -> Path:
        """Create a subfolder unless it exists, and return its path."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder
