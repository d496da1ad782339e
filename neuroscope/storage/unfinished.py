"""A folder of activations on its way: written part by part, by one process at a time."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from neuroscope.activations import Floats
from neuroscope.errors import ActivationError, PromptError
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts
from neuroscope.sites import Site
from neuroscope.storage.disk import disk_errors, stored_bytes
from neuroscope.storage.inputs import Tokenise, write_inputs
from neuroscope.storage.manifest import MANIFEST, ActivationKey, Manifest
from neuroscope.storage.parts import (
    PROMPTS,
    TOKENS,
    PartFacts,
    read_prompt_part,
    read_token_block,
    site_columns,
    whole_part,
    write_part,
)
from neuroscope.tokens import TokenBlock, Vocabulary

UNFINISHED = "unfinished.json"
_LOCK = ".lock"

_log = logging.getLogger("neuroscope")


class UnfinishedActivations:
    """A folder of activations to be completed; made by `unfinished_activations`.

    A part is kept once its files are whole: killed at any moment, the next process that opens the
    folder with the same key goes on with the parts that are missing.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._found = {
            (str(site), number): whole_part(folder, manifest.key.digest, str(site), number)
            for site in manifest.sites
            for number in range(manifest.parts)
        }
        self.missing = sorted({number for (_, number), facts in self._found.items() if not facts})
        """Parts to be written."""
        self.size = stored_bytes(folder)
        """Bytes of the parts on the disk."""

    @property
    def finished_prompts(self) -> int:
        """How many prompts the parts that are there already hold."""
        count = self.manifest.prompts
        return count - sum(len(self._span(number)) for number in self.missing)

    @property
    def nonfinite(self) -> dict[str, int]:
        """Site -> rows with a value that is not finite, of the parts that are there."""
        total: Counter[str] = Counter()
        for (site, _), facts in self._found.items():
            if facts and facts.nonfinite:
                total[site] += facts.nonfinite
        return dict(total)

    def inputs(self, number: int, vocabulary: Vocabulary) -> tuple[list[str], TokenBlock]:
        """Ids and tokens of a part's prompts."""
        ids = [prompt.id for prompt in read_prompt_part(self.folder, number)]
        return ids, read_token_block(self.folder, number, vocabulary)

    def write(
        self,
        number: int,
        ids: Sequence[str],
        tokens: TokenBlock,
        values: Iterable[tuple[Site, Floats]],
        nonfinite: Mapping[Site, int],
    ) -> None:
        """Writes a part.

        Args:
            number: of the part.
            ids: of its prompts.
            tokens: theirs.
            values: (rows, neurons) of each site, written as they come.
            nonfinite: rows with values that are not finite; a site's are known when it comes.

        Raises:
            ActivationError: the disk is full or fails; the other parts are kept.
        """
        key = self.manifest.key
        for site, rows in values:
            facts = PartFacts(key.digest, str(site), len(rows), nonfinite.get(site, 0))
            columns = site_columns(ids, tokens, rows, key.pool, key.tokens)
            with disk_errors(self.folder):
                self.size += write_part(self.folder, number, columns, facts)
            self._found[str(site), number] = facts
        self.missing.remove(number)

    def finish(self) -> None:
        """Declares the folder complete."""
        self.manifest = replace(self.manifest, nonfinite=self.nonfinite)
        with disk_errors(self.folder):
            self.manifest.write(self.folder / MANIFEST)
            (self.folder / UNFINISHED).unlink(missing_ok=True)

    def _span(self, number: int) -> range:
        per_part = self.manifest.prompts_per_part
        return range(number * per_part, min((number + 1) * per_part, self.manifest.prompts))


def complete_manifest(folder: Path, key: ActivationKey) -> Manifest | None:
    """The manifest of a folder that holds everything of this key, else None.

    Raises:
        ActivationError: the folder holds something else, or is damaged or of another schema.
    """
    manifest = begun_manifest(folder, key)
    if manifest is None or not (folder / MANIFEST).is_file():
        return None
    tables = (PROMPTS, TOKENS, *map(str, manifest.sites))
    return manifest if _are_whole(folder, manifest, tables) else None


@contextmanager
def unfinished_activations(
    folder: Path,
    manifest: Manifest,
    prompts: Prompts,
    tokenise: Tokenise,
    *,
    progress: Progress = silent,
) -> Iterator[UnfinishedActivations]:
    """Opens a folder for writing, and makes it if it is not there.

    Prompts and tokens are written first: what is wrong with a prompt is found before anything is
    computed, and what follows does not depend on where the prompts came from. Another process
    that writes the same folder is waited for.

    Args:
        folder: new, empty, with parts of the same key, or begun with another and left without any.
        manifest: what the folder is to hold.
        prompts: to be written.
        tokenise: gives their tokens.
        progress: told how many prompts are read, and when another process has to be waited for.

    Raises:
        ActivationError: the folder holds something else, or cannot be written.
        PromptError: a prompt cannot be read by the model, or the prompts are not those of the
            manifest: their file has changed. What was begun here is taken away.
    """
    begun_manifest(folder, manifest.key)
    with _made(folder), _only_here(folder, progress):
        # another process may have finished it while this one waited
        complete = complete_manifest(folder, manifest.key)
        yield UnfinishedActivations(
            folder, complete or _begin(folder, manifest, prompts, tokenise, progress)
        )


def _begin(
    folder: Path, manifest: Manifest, prompts: Prompts, tokenise: Tokenise, progress: Progress
) -> Manifest:
    """Notes what the folder is to hold, and writes prompts and tokens unless they are there."""
    begun = begun_manifest(folder, manifest.key)
    if begun:
        manifest = begun.continued(manifest.provenance)
    elif first := whole_part(folder, manifest.key.digest, PROMPTS, 0):  # its manifest was lost
        manifest = replace(manifest, prompts_per_part=first.rows)
    with disk_errors(folder):
        manifest.write(folder / UNFINISHED)
        (folder / MANIFEST).unlink(missing_ok=True)
    if not _are_whole(folder, manifest, (PROMPTS, TOKENS)):
        try:
            write_inputs(folder, manifest, prompts, tokenise, progress)
        except PromptError:
            if not _holds_values(folder, manifest):
                (folder / UNFINISHED).unlink()
            raise
    return manifest


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder, and takes it away again if nothing came into it."""
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ActivationError(
            f"the folder {folder} cannot be made ({error.strerror}): name another"
        ) from error
    try:
        yield
    finally:
        if not there:
            with suppress(OSError):  # something is in it
                folder.rmdir()


@contextmanager
def _only_here(folder: Path, progress: Progress) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    with disk_errors(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("another process writes to %s: waiting for it", folder)
            progress("wait for another process", 0, 1)
            lock.acquire()
    try:
        yield
    finally:
        if not (folder / UNFINISHED).exists():
            with suppress(OSError):  # Windows deletes no file that is open; then it stays, empty
                (folder / _LOCK).unlink()
        lock.release()


def begun_manifest(folder: Path, key: ActivationKey) -> Manifest | None:
    """The manifest of what is there of this key, or None where nothing is that would be lost.

    Raises:
        ActivationError: the folder holds something else, or is damaged or of another schema.
    """
    if folder.is_file():
        raise ActivationError(f"{folder} is a file: name a new folder")
    # in this order, nothing that another process does meanwhile looks like a foreign folder: it
    # writes the second before it takes the first away, and the other way round
    filled = folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())
    for name in (UNFINISHED, MANIFEST, UNFINISHED):
        found = Manifest.read(folder / name)
        if found and found.key == key:
            return found
        if found and (name == MANIFEST or _holds_values(folder, found)):
            raise ActivationError(
                f"{folder} holds other activations ({'; '.join(found.key.differences(key))}): name"
                " a new folder"
            )
        if found:
            return None
    if filled and not whole_part(folder, key.digest, PROMPTS, 0):
        raise ActivationError(f"{folder} is not empty: name a new folder")
    return None


def _holds_values(folder: Path, manifest: Manifest) -> bool:
    """Whether any part of a site is there."""
    return any(
        whole_part(folder, manifest.key.digest, str(site), number)
        for site in manifest.sites
        for number in range(manifest.parts)
    )


def _are_whole(folder: Path, manifest: Manifest, tables: Iterable[str]) -> bool:
    key, numbers = manifest.key.digest, range(manifest.parts)
    return all(whole_part(folder, key, table, at) for table in tables for at in numbers)
