"""Writing a folder of activations: starting it, resuming it, and declaring what is complete."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from neuroscope.errors import PromptError, StoreError
from neuroscope.files import remove_leftovers
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts
from neuroscope.storage.disk import disk_errors
from neuroscope.storage.inputs import Tokenise, discard_staged, write_inputs, written_parts
from neuroscope.storage.keys import ActivationKey
from neuroscope.storage.locks import locked
from neuroscope.storage.manifest import MANIFEST, UNFINISHED, Manifest
from neuroscope.storage.parts import (
    NUMPY,
    PARQUET,
    PROMPTS,
    TOKENS,
    Part,
    part_name,
    read_part_header,
    verified_part,
)
from neuroscope.storage.statistics import verified_arrays

_log = logging.getLogger("neuroscope")


@dataclass(frozen=True)
class Request:
    """Requested contents of a folder of activations."""

    key: ActivationKey
    """Key of the activations."""
    values: bool = True
    """Whether the values of every site are requested."""
    statistics: tuple[str, ...] = ()
    """Names of the statistics that are requested."""


def complete_manifest(folder: Path, request: Request) -> Manifest | None:
    """Return the manifest of a folder if the folder holds everything requested, else None.

    No lock is needed. Only the headers of the files are verified, not their contents.

    Raises:
        StoreError: the manifest is damaged or has another schema.
    """
    if (folder / UNFINISHED).exists():  # a process was killed before it removed this file
        return None
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None or manifest.key != request.key:
        return None
    declared = set(request.statistics) <= set(manifest.statistics)
    if not declared or (request.values and not manifest.values):
        return None
    requested = replace(manifest, values=request.values, statistics=request.statistics)
    stored = _verified(folder, requested)
    intact = (stored.values, stored.statistics) == (request.values, request.statistics)
    return manifest if intact else None


def _verified(folder: Path, manifest: Manifest) -> Manifest:
    """Return the manifest without declarations of contents that lack a file."""
    numbers = range(len(manifest.parts))

    def has_table(table: str) -> bool:
        return all(verified_part(folder, manifest.part(table, number)) for number in numbers)

    def has_arrays(name: str) -> bool:
        return all(verified_arrays(folder, manifest.part(name, number)) for number in numbers)

    if not (has_table(PROMPTS) and has_table(TOKENS)):
        return replace(manifest, values=False, statistics=(), nonfinite={})
    values = manifest.values and all(has_table(str(site)) for site in manifest.sites)
    names = tuple(name for name in manifest.statistics if has_arrays(name))
    nonfinite = manifest.nonfinite if values else {}
    return replace(manifest, values=values, statistics=names, nonfinite=nonfinite)


def stored_prompts(folder: Path) -> int:
    """Return the number of prompts whose values at every site a folder holds, complete or not.

    Raises:
        StoreError: the manifest is damaged or has another schema.
    """
    manifest = Manifest.read(folder / UNFINISHED) or Manifest.read(folder / MANIFEST)
    if manifest is None:
        return 0
    manifest = replace(manifest, parts=written_parts(folder, manifest))
    return sum(
        prompts
        for number, prompts in enumerate(manifest.parts)
        if all(verified_part(folder, manifest.part(str(site), number)) for site in manifest.sites)
    )


@contextmanager
def open_folder(
    folder: Path, key: ActivationKey, progress: Progress = silent
) -> Iterator["FolderWriter"]:
    """Open a folder for writing while no other process does.

    Args:
        folder: folder that is new, is empty or holds activations of the same key; a folder of
            another key without any results is taken over.
        key: key of the activations.
        progress: callback that is called if another process must be waited for.

    Raises:
        StoreError: the folder holds something else, or cannot be written.
    """
    with locked(folder, progress):
        yield FolderWriter(folder, key)


class FolderWriter:
    """Folder of activations that only this process writes; `open_folder` creates it.

    >>> with open_folder(folder, key) as writer:
    ...     manifest = writer.begin(planned, prompts, tokenise)
    ...     ...  # write the parts
    ...     writer.finish(replace(manifest, values=True))

    A part is kept once its file is complete. If the process is killed, the next one continues with
    the parts that are missing.
    """

    def __init__(self, folder: Path, key: ActivationKey):
        self.folder = folder
        self.begun = _begun_manifest(folder, key)
        """Manifest of the key that the folder holds already; None if there is none."""

    def stored_inputs(self) -> Manifest | None:
        """Return the manifest of the folder if all its prompts and tokens are written."""
        parts = written_parts(self.folder, self.begun) if self.begun else ()
        if self.begun is None or not parts:
            return None
        return _verified(self.folder, replace(self.begun, parts=parts))

    def begin(
        self,
        planned: Manifest,
        prompts: Prompts,
        tokenise: Tokenise,
        *,
        values: bool = True,
        progress: Progress = silent,
    ) -> Manifest:
        """Write the manifest, and prompts and tokens unless they are already written.

        Prompts and tokens come first, so that a faulty prompt is found before anything is computed
        and later steps do not depend on the source of the prompts.

        Args:
            planned: manifest with the division into parts that is planned now. If the folder holds
                results, their division is kept; but if they are only statistics, and their parts
                are too large to hold values, they are discarded.
            prompts: prompts to write.
            tokenise: function that returns the tokens of prompts.
            values: whether values will be written.
            progress: callback that is called with the number of prompts that are read so far.

        Returns:
            Manifest with its parts, which declares what is already complete.

        Raises:
            StoreError, ResourceError: the disk fails or is full.
            PromptError: the model cannot read a prompt, or the prompts are not those of the key.
                A folder that holds no results is left as it was.
        """
        created = not self.folder.exists()
        manifest = self._continued(planned, values)
        with disk_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
            self._discard_other_division(manifest)
            self._save(manifest)
            discard_staged(self.folder)
        parts = written_parts(self.folder, manifest)
        if not parts:
            try:
                write_inputs(self.folder, manifest, prompts, tokenise, progress)
            except PromptError:
                self._withdraw(manifest, created)
                raise
            parts = written_parts(self.folder, manifest)
        manifest = replace(manifest, parts=parts)
        with disk_errors(self.folder):
            self._discard_strays(manifest)
        return manifest

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which declares what is complete.

        Raises:
            StoreError, ResourceError: the disk fails or is full.
        """
        with disk_errors(self.folder):
            self._save(manifest)

    def _continued(self, planned: Manifest, values: bool) -> Manifest:
        """Return the manifest to continue with: that of the stored results, or the planned one."""
        begun = self.begun
        if begun is None or not _holds_results(self.folder, begun):
            return planned
        too_large = begun.prompts_per_part > planned.prompts_per_part
        if values and too_large and not _holds_values(self.folder, begun):
            return planned
        return _verified(self.folder, begun).continued(planned.provenance)

    def _save(self, manifest: Manifest) -> None:
        """Write the manifest under the name that says whether anything is complete."""
        names = (MANIFEST, UNFINISHED) if manifest.is_complete else (UNFINISHED, MANIFEST)
        manifest.write(self.folder / names[0])
        (self.folder / names[1]).unlink(missing_ok=True)

    def _discard_other_division(self, manifest: Manifest) -> None:
        """Remove the files of another key or another division into parts."""
        other = Manifest.read(self.folder / MANIFEST) or Manifest.read(self.folder / UNFINISHED)
        if other is None or other.division == manifest.division:
            return
        if other.statistics:
            names = ", ".join(other.statistics)
            _log.warning("%s: discarding %s, whose parts are too large", self.folder, names)
        if (self.folder / MANIFEST).exists():
            (self.folder / MANIFEST).replace(self.folder / UNFINISHED)
        _discard_tables(self.folder, other)

    def _withdraw(self, manifest: Manifest, created: bool) -> None:
        """Remove what `begin` wrote, unless the folder holds results."""
        if not _holds_results(self.folder, manifest):
            _discard_tables(self.folder, manifest)
            (self.folder / UNFINISHED).unlink(missing_ok=True)
            if created:
                with suppress(OSError):  # another program has written into it
                    self.folder.rmdir()

    def _discard_strays(self, manifest: Manifest) -> None:
        """Remove the parts of an earlier division, and incomplete files of killed processes."""
        remove_leftovers(self.folder)
        names = {part_name(number) for number in range(len(manifest.parts))}
        for table in (*_site_folders(self.folder, manifest), *_statistics_folders(self.folder)):
            remove_leftovers(table)
            for path in table.glob("part-*"):
                if path.suffix in (PARQUET, NUMPY) and path.stem not in names:
                    path.unlink()


def _begun_manifest(folder: Path, key: ActivationKey) -> Manifest | None:
    """Return the manifest of a key in a folder; None if there is none and nothing would be lost.

    Raises:
        StoreError: the folder holds something else, or is damaged or of another schema.
    """
    if folder.is_file():
        raise StoreError(f"{folder} is a file", remedy="choose a new folder")
    manifest = Manifest.read(folder / MANIFEST) or Manifest.read(folder / UNFINISHED)
    if manifest and manifest.key == key:
        return manifest
    if manifest and (manifest.is_complete or _holds_results(folder, manifest)):
        differences = "; ".join(manifest.key.differences(key))
        raise StoreError(
            f"{folder} holds other activations ({differences})", remedy="choose a new folder"
        )
    first = read_part_header(Part(key.digest, PROMPTS, 0, 0, 0).path(folder))
    only_manifest_lost = first is not None and first.key == key.digest
    if not (manifest or only_manifest_lost) and _is_filled(folder):
        raise StoreError(f"{folder} is not empty", remedy="choose a new folder")
    return None


def _is_filled(folder: Path) -> bool:
    """Return whether a folder has anything but hidden files."""
    with disk_errors(folder):
        return folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir())


def _site_folders(folder: Path, manifest: Manifest) -> list[Path]:
    """Return the folders of the sites' values, which need not exist."""
    return [folder / str(site) for site in manifest.sites]


def _statistics_folders(folder: Path) -> list[Path]:
    """Return the folders of statistics, whose names have a hyphen."""
    return [path for path in folder.glob("*-*") if path.is_dir()]


def _holds_values(folder: Path, manifest: Manifest) -> bool:
    """Return whether a folder holds a part of a site's values."""
    sites = _site_folders(folder, manifest)
    return any(any(site.glob(f"part-*{PARQUET}")) for site in sites)


def _holds_results(folder: Path, manifest: Manifest) -> bool:
    """Return whether a folder holds a part of a site's values or of statistics."""
    if _holds_values(folder, manifest):
        return True
    return any(any(path.glob(f"part-*{NUMPY}")) for path in _statistics_folders(folder))


def _discard_tables(folder: Path, manifest: Manifest) -> None:
    """Remove all tables and statistics of a folder, but not its manifest."""
    tables = (folder / PROMPTS, folder / TOKENS, *_site_folders(folder, manifest))
    for table in (*tables, *_statistics_folders(folder)):
        shutil.rmtree(table, ignore_errors=True)
