"""Manifest of a folder of activations: its contents, its division into parts, its provenance."""

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
"""Name of the manifest, which is written last: everything that it declares is complete."""
UNFINISHED = "unfinished.json"
"""Name of the manifest of a folder that holds nothing complete yet."""


@dataclass(frozen=True)
class Manifest:
    """Contents of a folder of activations, their division into parts and their provenance.

    Beside the manifest are the folders `prompts` and `tokens`, one folder per site, and one per
    kind of statistics, each with one file per part. The rows of a site have the columns `prompt`
    (its id), `position` (at token level only), and `values`, a list with one number per neuron.

    Raises:
        ValueError: a part is empty, or the parts do not hold all prompts.
    """

    key: ActivationKey
    """Key of the activations."""
    prompts: int
    """Number of prompts."""
    prompts_per_part: int
    """Largest number of prompts per part."""
    tokens_per_part: int
    """Limit of tokens per part, which a part may exceed by less than one prompt."""
    provenance: Provenance
    """Provenance of the first run."""
    later: tuple[Provenance, ...] = ()
    """Provenance of later runs that computed parts, oldest first, where it differs from that of the
    run before: another device or library version changes the last bits of values."""
    parts: tuple[int, ...] = ()
    """Number of prompts of each part, in order; empty until all prompts are written."""
    values: bool = False
    """Whether the values of every site are complete."""
    statistics: tuple[str, ...] = ()
    """Names of the statistics that are complete."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """Number of rows with NaN or infinity per site, where such values were allowed."""

    def __post_init__(self) -> None:
        if min(self.prompts_per_part, self.tokens_per_part, *self.parts) < 1:
            raise ValueError("a part is empty")
        if self.parts and sum(self.parts) != self.prompts:
            raise ValueError(f"its parts hold {sum(self.parts)} prompts instead of {self.prompts}")

    @property
    def sites(self) -> tuple[Site, ...]:
        """Sites of the activations."""
        return self.key.sites

    @property
    def is_complete(self) -> bool:
        """Whether the values or any statistics are complete."""
        return self.values or bool(self.statistics)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Index of each part's first prompt among all prompts."""
        return tuple(accumulate(self.parts[:-1], initial=0))

    def part(self, table: str, number: int) -> Part:
        """Return the header that part `number` (from 0) of a table must have."""
        return Part(self.key.digest, table, number, self.starts[number], self.parts[number])

    @property
    def division(self) -> tuple[ActivationKey, int, int]:
        """Values that determine which prompts are in which part."""
        return self.key, self.prompts_per_part, self.tokens_per_part

    @property
    def latest(self) -> Provenance:
        """Provenance of the latest run that computed a part."""
        return self.later[-1] if self.later else self.provenance

    def continued(self, provenance: Provenance) -> "Manifest":
        """Return this manifest with the provenance of a new run, which is added if it differs."""
        if replace(provenance, created=self.latest.created) == self.latest:
            return self
        return replace(self, later=(*self.later, provenance))

    def write(self, path: Path) -> None:
        """Write the manifest to a file, atomically."""
        entries = {**asdict(self), "key": self.key.to_dict()}
        document = {"schema": SCHEMA, "digest": self.key.digest, **entries}
        with atomic_write(path) as file:
            file.write(json.dumps(document, indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """Return the manifest in a file, or None if the file does not exist.

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
    """Return the manifest of a JSON document; errors other than StoreError mean damage."""
    if document["schema"] != SCHEMA:
        raise StoreError(
            f"{path.parent} has schema {document['schema']}; this version of neuroscope reads"
            f" schema {SCHEMA}",
            remedy="use the version that wrote it, or extract again into a new folder",
        )
    entries = {name: document[name] for name in document if name not in ("schema", "digest")}
    try:
        key = ActivationKey.from_dict(entries["key"])
    except NeuroscopeError as error:  # an unknown site or padding side
        raise ValueError(error) from error
    entries |= {
        "key": key,
        "provenance": Provenance.from_dict(entries["provenance"]),
        "later": tuple(Provenance.from_dict(entry) for entry in entries["later"]),
        "parts": tuple(entries["parts"]),
        "statistics": tuple(entries["statistics"]),
    }
    manifest = Manifest(**entries)
    if path.name == MANIFEST and not manifest.parts:
        raise ValueError("it lists no parts")
    return manifest


def _damaged(path: Path, reason: object) -> StoreError:
    """Return the error for a manifest whose content is not what was written."""
    return StoreError(
        f"{path} is damaged ({reason})",
        remedy="delete this file and run the same extraction again; finished parts are kept",
    )


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a complete folder.

    Raises:
        StoreError: the folder has no manifest, for example because writing was interrupted; or the
            manifest is damaged or has another schema.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        raise StoreError(
            f"{folder} holds no complete activations (no {MANIFEST})",
            remedy="run the same extraction again; it computes only what is missing",
        )
    return manifest
