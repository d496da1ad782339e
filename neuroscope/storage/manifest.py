"""What a folder of activations holds: its key, and the manifest that is written last."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from neuroscope.activations import Provenance
from neuroscope.errors import SiteError, StoreError
from neuroscope.files import atomic_write
from neuroscope.options import Pool, TokenRule
from neuroscope.sites import Site
from neuroscope.storage.parts import Part, unreadable

SCHEMA = 5
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ActivationKey:
    """Everything that decides the values of activations."""

    fingerprint: str  # of the model's files
    prompts_digest: str
    sites: tuple[Site, ...]
    pool: Pool
    token_rule: TokenRule
    truncated: bool
    dtype: str
    attention: str

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.to_dict(), SCHEMA]).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sites": [str(site) for site in self.sites]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "ActivationKey":
        return cls(**{**found, "sites": tuple(Site.parse(site) for site in found["sites"])})

    def differences(self, other: "ActivationKey") -> list[str]:
        """Where this one is not as another, in words."""
        words = {"fingerprint": "another model", "prompts_digest": "other prompts"}
        words["sites"] = f"sites {', '.join(map(str, self.sites))}"
        return [
            words.get(one.name, f"{one.name} {getattr(self, one.name)}")
            for one in fields(self)
            if getattr(self, one.name) != getattr(other, one.name)
        ]


@dataclass(frozen=True)
class Manifest:
    """What a folder of activations holds, or is to hold while it is on its way.

    Beside it stand the folders `prompts` and `tokens` and one for each site, with a Parquet file
    for each part. A site's rows have the columns `prompt` (its id), at token level `position`, and
    `values`, a list as long as the layer has neurons.
    """

    key: ActivationKey
    prompts: int
    prompts_per_part: int  # at most
    tokens_per_part: int  # about as many at most
    provenance: Provenance
    later: tuple[Provenance, ...] = ()
    """What was at work when the folder was continued, where that had changed: another device or
    version of a library gives values that differ in their last bits. The oldest first."""
    parts: tuple[int, ...] = ()
    """How many prompts each part holds, in their order; known once all prompts are written."""
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    """Site -> rows with a value that is not finite, where these were allowed; once complete."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.key.sites

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """(parts,) the place of each part's first prompt among all."""
        return tuple(accumulate(self.parts[:-1], initial=0))

    def part(self, table: str, number: int) -> Part:
        """What a file of a table is to say of itself; `number` counts the parts from 0."""
        return Part(self.key.digest, table, number, self.starts[number], self.parts[number])

    @property
    def division(self) -> tuple[ActivationKey, int, int]:
        """What decides which prompts are in which part."""
        return self.key, self.prompts_per_part, self.tokens_per_part

    @property
    def latest(self) -> Provenance:
        """What was at work when a part was computed last."""
        return self.later[-1] if self.later else self.provenance

    def continued(self, provenance: Provenance) -> "Manifest":
        """With what is at work now, if that has changed."""
        if replace(provenance, created=self.latest.created) == self.latest:
            return self
        return replace(self, later=(*self.later, provenance))

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        document = {
            "schema": SCHEMA,
            "digest": self.key.digest,
            **asdict(self),
            "key": self.key.to_dict(),
        }
        with atomic_write(path) as file:
            file.write(json.dumps(document, indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """The manifest in a file, or None if there is no file.

        Raises:
            StoreError: it is damaged or has another schema.
        """
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            _check_schema(path.parent, found.pop("schema"))
            del found["digest"]
            found["key"] = ActivationKey.from_dict(found["key"])
            found["provenance"] = Provenance(**found["provenance"])
            found["later"] = tuple(Provenance(**one) for one in found["later"])
            found["parts"] = tuple(found["parts"])
            manifest = cls(**found)
            if min(manifest.prompts_per_part, manifest.tokens_per_part, *manifest.parts) < 1:
                raise ValueError("an empty part")
            divided = manifest.parts or path.name == MANIFEST
            if divided and sum(manifest.parts) != manifest.prompts:
                raise ValueError(f"parts of {sum(manifest.parts)} prompts")
            return manifest
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, KeyError, TypeError, AttributeError, SiteError) as error:
            told = isinstance(error, ValueError | SiteError)
            reason = error if told else "an entry is missing or of another kind"
            raise StoreError(
                f"{path} is damaged ({reason}): delete this file and run the same extraction"
                " again, which keeps the finished parts"
            ) from error


def _check_schema(folder: Path, schema: object) -> None:
    if schema != SCHEMA:
        raise StoreError(
            f"{folder} was written with schema {schema}, this version reads {SCHEMA}: extract again"
            " into a new folder; nothing in this one was changed"
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete folder.

    Raises:
        StoreError: there is none, so writing was cut short, or it is damaged or has another
            schema.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        raise StoreError(
            f"{folder} holds no complete activations (no {MANIFEST}): run the same extraction"
            " again, which makes only what is missing"
        )
    return manifest
