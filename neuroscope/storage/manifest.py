"""The manifest of a folder of activations: what it holds, how it is divided and how it was made."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from neuroscope.activations import Provenance
from neuroscope.errors import NeuroscopeError, StoreError
from neuroscope.files import atomic_write
from neuroscope.sites import Site
from neuroscope.storage.keys import SCHEMA, ActivationKey
from neuroscope.storage.parts import Part, unreadable

MANIFEST = "manifest.json"
"""Written last: its presence means that what it names is complete."""
UNFINISHED = "unfinished.json"
"""The manifest of a folder that holds nothing complete yet."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of activations holds.

    Beside it are the folders `prompts` and `tokens`, one for each site, and one for each kind of
    statistics, each with one file per part. A site's rows have the columns `prompt` (its id), at
    token level `position`, and `values`, a list with one number per neuron.

    Raises:
        ValueError: a part is empty, or the parts do not hold all prompts.
    """

    key: ActivationKey
    prompts: int
    """Number of prompts."""
    prompts_per_part: int
    """Limit of the division into parts."""
    tokens_per_part: int
    """Limit of the division into parts; one prompt may exceed it."""
    provenance: Provenance
    later: tuple[Provenance, ...] = ()
    """Provenance of later runs that computed parts, where it differs from that of the run before:
    another device or library version changes the last bits of values. The oldest comes first."""
    parts: tuple[int, ...] = ()
    """Prompts per part, in order; empty until all prompts are written."""
    values: bool = False
    """Whether every site's values are complete."""
    statistics: tuple[str, ...] = ()
    """Names of the statistics that are complete."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """Site -> number of rows with NaN or infinity, where these were allowed."""

    def __post_init__(self) -> None:
        if min(self.prompts_per_part, self.tokens_per_part, *self.parts) < 1:
            raise ValueError("an empty part")
        if self.parts and sum(self.parts) != self.prompts:
            raise ValueError(f"parts of {sum(self.parts)} prompts instead of {self.prompts}")

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the key."""
        return self.key.sites

    @property
    def is_complete(self) -> bool:
        """Whether anything that was asked for is complete."""
        return self.values or bool(self.statistics)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """(parts,) the index of each part's first prompt among all prompts."""
        return tuple(accumulate(self.parts[:-1], initial=0))

    def part(self, table: str, number: int) -> Part:
        """Return the header that part `number` (from 0) of a table must have."""
        return Part(self.key.digest, table, number, self.starts[number], self.parts[number])

    @property
    def division(self) -> tuple[ActivationKey, int, int]:
        """What decides which prompts are in which part."""
        return self.key, self.prompts_per_part, self.tokens_per_part

    @property
    def latest(self) -> Provenance:
        """The provenance of the run that computed a part last."""
        return self.later[-1] if self.later else self.provenance

    def continued(self, provenance: Provenance) -> "Manifest":
        """Return the manifest with the provenance of a new run added if it differs."""
        if replace(provenance, created=self.latest.created) == self.latest:
            return self
        return replace(self, later=(*self.later, provenance))

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        entries = {**asdict(self), "key": self.key.to_dict()}
        document = {"schema": SCHEMA, "digest": self.key.digest, **entries}
        with atomic_write(path) as file:
            file.write(json.dumps(document, indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """Return the manifest in a file, or None if there is no file.

        Raises:
            StoreError: the file cannot be read, is damaged or has another schema.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return _from_document(document, path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, "an entry is missing or of another type") from error
        except ValueError as error:
            raise _damaged(path, error) from error


def _from_document(document: Any, path: Path) -> Manifest:
    """Return the manifest of a JSON document; errors of any kind mean that it is damaged."""
    if document["schema"] != SCHEMA:
        raise StoreError(
            f"{path.parent} has schema {document['schema']}; this version reads schema {SCHEMA}",
            remedy="extract again into a new folder",
        )
    entries = {name: document[name] for name in document if name not in ("schema", "digest")}
    try:
        key = ActivationKey.from_dict(entries["key"])
    except NeuroscopeError as error:  # an unknown site or padding side
        raise ValueError(error) from error
    entries |= {
        "key": key,
        "provenance": Provenance(**entries["provenance"]),
        "later": tuple(Provenance(**entry) for entry in entries["later"]),
        "parts": tuple(entries["parts"]),
        "statistics": tuple(entries["statistics"]),
    }
    manifest = Manifest(**entries)
    if path.name == MANIFEST and not manifest.parts:
        raise ValueError("no parts")
    return manifest


def _damaged(path: Path, reason: object) -> StoreError:
    return StoreError(
        f"{path} is damaged ({reason})",
        remedy="delete this file and run the same extraction again; finished parts are kept",
    )


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a complete folder.

    Raises:
        StoreError: there is none, as writing was interrupted; or it is damaged or has another
            schema.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        raise StoreError(
            f"{folder} holds no complete activations (no {MANIFEST})",
            remedy="run the same extraction again; it computes only what is missing",
        )
    return manifest
