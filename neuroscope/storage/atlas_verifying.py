"""Copy of an atlas with the verdicts of ablation; the original is never changed."""

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neuroscope.files import absolute, sync_folder
from neuroscope.storage.atlas_connection import connect_to_write, writing_error
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_writing import MEMORY, check_absent, protect, unfinished_file

if TYPE_CHECKING:
    import duckdb

_AGAIN = "test the neurons again"

GENERAL = "general"
"""Verdict of a neuron whose silencing hurts every topic."""

_ENTRY = """
UPDATE selectivity SET verified = ?, effect = ?, effect_low = ?, effect_high = ?, effect_p = ?
WHERE neuron = (SELECT neuron FROM neuron WHERE name = ?)
    AND topic = (SELECT topic FROM topic WHERE name = ?)
"""


@dataclass(frozen=True)
class Verification:
    """Verdict on one neuron and topic, and its effect; the columns of `selectivity`."""

    neuron: str
    """Name, such as `mlp_act.3.57`."""
    topic: str
    verified: str
    """`confirmed`, `not confirmed` or `general`."""
    effect: float
    effect_low: float
    effect_high: float
    effect_p: float


def verified_copy(
    atlas: str | Path, target: str | Path, rows: Sequence[Verification], note: str = ""
) -> Path:
    """Write a copy of an atlas with verdicts, and return its path.

    >>> verified_copy("atlas.duckdb", "verified.duckdb", result.verifications(), "…")

    The copy appears under its name only when it is complete and on the disk. Only the entries of
    tested neurons and topics are replaced. A tested neuron is marked `general` if any of its
    verdicts is `general`, and unmarked otherwise; other neurons are unchanged.

    Args:
        atlas: file to copy.
        target: file to create, which must not exist.
        rows: verdicts.
        note: sentence that is added to the notes of the atlas.

    Raises:
        ValueError: the atlas has no such neuron or topic.
        StoreError: the target exists, the atlas cannot be read, or the copy cannot be written.
        ResourceError: the disk is full.
    """
    import duckdb

    atlas, target = absolute(atlas), absolute(target)
    check_absent(target)
    Atlas.open(atlas).close()
    try:
        with unfinished_file(target) as copy:
            shutil.copyfile(atlas, copy)
            _update(copy, rows, note)
            protect(copy)
            check_absent(target)
            copy.rename(target)
        sync_folder(target.parent)
    except (OSError, duckdb.Error) as error:
        raise writing_error(target, error, _AGAIN) from error
    return target


def check_target(target: str | Path) -> None:
    """Raise an error unless a copy, and the folders above it, can be created; leave nothing.

    Raises:
        StoreError: the target exists or cannot be created.
        ResourceError: the disk is full.
    """
    target = absolute(target)
    check_absent(target)
    folder = next(parent for parent in target.parents if parent.exists())
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with unfinished_file(folder / target.name) as copy:
            copy.touch()
    except OSError as error:
        raise writing_error(target, error, _AGAIN) from error


def _update(file: Path, rows: Sequence[Verification], note: str) -> None:
    """Store the verdicts in a file."""
    with closing(connect_to_write(file, file.with_name("spill"), MEMORY)) as connection:
        connection.execute("BEGIN")
        for row in rows:
            _update_entry(connection, row)
        general = {row.neuron: False for row in rows}
        general |= {row.neuron: True for row in rows if row.verified == GENERAL}
        for neuron, value in general.items():
            connection.execute("UPDATE neuron SET general = ? WHERE name = ?", [value, neuron])
        if note:
            connection.execute("UPDATE model SET notes = list_append(notes, ?)", [note])
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT atlas")


def _update_entry(connection: "duckdb.DuckDBPyConnection", row: Verification) -> None:
    """Store one verdict; raise ValueError unless the atlas has its entry."""
    effects = (row.effect, row.effect_low, row.effect_high, row.effect_p)
    connection.execute(_ENTRY, [row.verified, *effects, row.neuron, row.topic])
    if connection.fetchone() != (1,):
        raise ValueError(f"the atlas has no entry for {row.neuron} and the topic '{row.topic}'")
