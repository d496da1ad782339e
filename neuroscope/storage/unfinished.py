"""A folder of activations on its way: written part by part, by one process at a time."""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from neuroscope.activations import Floats
from neuroscope.errors import PromptError, StoreError
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts
from neuroscope.sites import Site
from neuroscope.storage.disk import disk_errors, stored_bytes
from neuroscope.storage.inputs import Tokenise, discard_half_written, write_inputs, written_inputs
from neuroscope.storage.manifest import MANIFEST, ActivationKey, Manifest
from neuroscope.storage.parts import (
    PROMPTS,
    TOKENS,
    Part,
    read_part_header,
    read_prompt_part,
    read_token_block,
    site_columns,
    verified_part,
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
        self.size = stored_bytes(folder)
        """Bytes of the parts on the disk."""
        self.missing: list[int] = []
        """Numbers of the parts to be written."""
        self.finished_prompts = 0
        """How many prompts the other parts hold."""
        self.nonfinite: Counter[str] = Counter()
        """Site -> rows with a value that is not finite, of the other parts."""
        for number in range(len(manifest.parts)):
            places = (manifest.part(str(site), number) for site in manifest.sites)
            found = [verified_part(folder, place) for place in places]
            whole = [part for part in found if part]
            if len(whole) == len(found):
                self._count(number, whole)
            else:
                self.missing.append(number)

    def inputs(self, number: int, vocabulary: Vocabulary) -> tuple[list[str], TokenBlock]:
        """Ids and tokens of a part's prompts."""
        prompts = read_prompt_part(self.folder, self.manifest.part(PROMPTS, number))
        tokens = read_token_block(self.folder, self.manifest.part(TOKENS, number), vocabulary)
        return [prompt.id for prompt in prompts], tokens

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
            StoreError: the disk is full or fails; the other parts are kept.
        """
        key, written = self.manifest.key, []
        for site, rows in values:
            place = self.manifest.part(str(site), number)
            part = replace(place, nonfinite=nonfinite.get(site, 0))
            columns = site_columns(ids, tokens, rows, key.pool, key.token_rule)
            with disk_errors(self.folder):
                self.size += write_part(self.folder, part, columns)
            written.append(part)
        self.missing.remove(number)
        self._count(number, written)

    def finish(self) -> None:
        """Declares the folder complete."""
        self.manifest = replace(self.manifest, nonfinite=dict(self.nonfinite))
        with disk_errors(self.folder):
            self.manifest.write(self.folder / MANIFEST)
            (self.folder / UNFINISHED).unlink(missing_ok=True)

    def _count(self, number: int, parts: Iterable[Part]) -> None:
        """Takes the sites' parts of this number for finished."""
        self.finished_prompts += self.manifest.parts[number]
        for part in parts:
            if part.nonfinite:
                self.nonfinite[part.table] += part.nonfinite


def complete_manifest(folder: Path, key: ActivationKey) -> Manifest | None:
    """The manifest of a folder that holds everything of this key, else None.

    Raises:
        StoreError: the folder holds something else, or is damaged or of another schema.
    """
    begun_manifest(folder, key)
    if (folder / UNFINISHED).is_file():  # under way, or killed before it was taken away
        return None
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None or manifest.key != key:
        return None
    tables = (PROMPTS, TOKENS, *map(str, manifest.sites))
    places = (manifest.part(table, at) for table in tables for at in range(len(manifest.parts)))
    return manifest if all(verified_part(folder, place) for place in places) else None


@contextmanager
def unfinished_activations(
    folder: Path,
    key: ActivationKey,
    plan: Callable[[Manifest | None], Manifest],
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
        key: of what it is to hold.
        plan: gives the manifest of what is to be written, from that of what has been begun, if
            anything has; asked unless everything is there.
        prompts: to be written.
        tokenise: gives their tokens.
        progress: told how many prompts are read, and when another process has to be waited for.

    Raises:
        StoreError: the folder holds something else, or cannot be written.
        PromptError: a prompt cannot be read by the model, or the prompts are not those of the
            manifest: their file has changed. What was begun here is taken away.
    """
    begun_manifest(folder, key)
    with _made(folder), _only_here(folder, progress):
        # another process may have finished it while this one waited
        manifest = complete_manifest(folder, key)
        if manifest is None:
            begun = begun_manifest(folder, key)
            manifest = plan(begun)
            if begun and _holds_values(folder, begun):
                manifest = begun.continued(manifest.provenance)
            manifest = _begin(folder, manifest, prompts, tokenise, progress)
        yield UnfinishedActivations(folder, manifest)


def _begin(
    folder: Path, manifest: Manifest, prompts: Prompts, tokenise: Tokenise, progress: Progress
) -> Manifest:
    """Notes what the folder is to hold, and writes prompts and tokens unless they are there."""
    with disk_errors(folder):
        _discard_another(folder, manifest)
        replace(manifest, parts=()).write(folder / UNFINISHED)
        (folder / MANIFEST).unlink(missing_ok=True)
    discard_half_written(folder)
    parts = written_inputs(folder, manifest)
    if parts is None:
        try:
            write_inputs(folder, manifest, prompts, tokenise, progress)
        except PromptError:
            if not _holds_values(folder, manifest):
                _discard_tables(folder, manifest)
                (folder / UNFINISHED).unlink()
            raise
        parts = written_inputs(folder, manifest)
        assert parts is not None
    manifest = replace(manifest, parts=parts)
    _discard_strays(folder, manifest)
    return manifest


def _discard_another(folder: Path, manifest: Manifest) -> None:
    """Takes away what was begun with another key or division, which holds no values."""
    another = Manifest.read(folder / UNFINISHED)
    if another and another.division != manifest.division:
        _discard_tables(folder, another)


def _discard_tables(folder: Path, manifest: Manifest) -> None:
    for table in (PROMPTS, TOKENS, *map(str, manifest.sites)):
        shutil.rmtree(folder / table, ignore_errors=True)


def _discard_strays(folder: Path, manifest: Manifest) -> None:
    """Takes away values that are no part: half written, or of prompts divided anew since."""
    for site in map(str, manifest.sites):
        parts = {manifest.part(site, at).path(folder) for at in range(len(manifest.parts))}
        for pattern in ("part-*.parquet", ".part-*.parquet"):
            for path in set((folder / site).glob(pattern)) - parts:
                path.unlink()


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder, and takes it away again if nothing came into it."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {folder} cannot be made ({error.strerror}): name another"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for path in made:
                path.rmdir()


@contextmanager
def _only_here(folder: Path, progress: Progress) -> Iterator[None]:
    lock = FileLock(folder / _LOCK)
    with disk_errors(folder):
        _acquire(lock, folder, progress)
    try:
        yield
    finally:
        if not (folder / UNFINISHED).exists():
            with suppress(OSError):  # Windows deletes no file that is open; then it stays, empty
                (folder / _LOCK).unlink()
        lock.release()


def _acquire(lock: FileLock, folder: Path, progress: Progress) -> None:
    """Waits for another process that has the lock."""
    timeout = 0
    while True:
        try:
            lock.acquire(timeout=timeout)
            return
        except Timeout:
            _log.info("another process writes to %s: waiting for it", folder)
            progress("wait for another process", 0, 1)
            timeout = -1
        except FileNotFoundError:  # it has failed and taken the folder away
            folder.mkdir(parents=True, exist_ok=True)


def begun_manifest(folder: Path, key: ActivationKey) -> Manifest | None:
    """The manifest of what is there of this key, or None where nothing is that would be lost.

    Raises:
        StoreError: the folder holds something else, or is damaged or of another schema.
    """
    if folder.is_file():
        raise StoreError(f"{folder} is a file: name a new folder")
    # in this order, nothing that another process does meanwhile looks like a foreign folder: it
    # writes the second before it takes the first away, and the other way round
    filled = _is_filled(folder)
    for name in (UNFINISHED, MANIFEST, UNFINISHED):
        found = Manifest.read(folder / name)
        if found and found.key == key:
            return found
        if found and (name == MANIFEST or _holds_values(folder, found)):
            raise StoreError(
                f"{folder} holds other activations ({'; '.join(found.key.differences(key))}): name"
                " a new folder"
            )
        if found:
            return None
    first = read_part_header(Part(key.digest, PROMPTS, 0, 0, 0).path(folder))
    if first and first.key == key.digest:  # only the manifest was lost
        return None
    if filled and _is_filled(folder):  # still: what a process had begun may just have been removed
        if any((folder / name).is_file() for name in (UNFINISHED, MANIFEST)):  # and another begun
            return begun_manifest(folder, key)
        raise StoreError(f"{folder} is not empty: name a new folder")
    return None


def _is_filled(folder: Path) -> bool:
    with disk_errors(folder):
        try:
            return any(not path.name.startswith(".") for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return False


def _holds_values(folder: Path, manifest: Manifest) -> bool:
    """Whether any part of a site is there: it has its name once it is whole."""
    return any(any((folder / str(site)).glob("part-*.parquet")) for site in manifest.sites)
