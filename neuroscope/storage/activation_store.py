"""Activations on disk: Parquet parts that any tool reads, and a manifest written last."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope.activations import Activations, Floats, Provenance
from neuroscope.errors import ActivationError, SiteError
from neuroscope.files import written_whole
from neuroscope.home import home
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.sites import Site
from neuroscope.storage.parts import damaged, read_prompt_part, read_site_part, read_token_part
from neuroscope.tokens import Tokens

SCHEMA = 2
MANIFEST = "manifest.json"


def activation_key(
    *,
    fingerprint: str,
    prompts_digest: str,
    sites: Iterable[Site],
    pool: str,
    tokens: str,
    truncate: bool,
    dtype: str,
    attention: str,
) -> str:
    """Digest of everything that decides the values, 32 hexadecimal digits."""
    parts = [
        fingerprint,
        prompts_digest,
        [str(site) for site in sites],
        [pool, tokens, truncate, dtype, attention, SCHEMA],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def stored_at(key: str) -> Path:
    """The folder of a key in the store of this machine."""
    return home() / "activations" / key


@dataclass(frozen=True)
class Manifest:
    """What a folder of activations holds, or is to hold while it is on its way.

    Beside it stand the folders `prompts` and `tokens` and one for each site, each with `parts`
    Parquet files. A site's rows have the columns `prompt` (its id), at token level `position`, and
    `values`, a list as long as the layer has neurons.
    """

    key: str
    sites: tuple[Site, ...]
    prompts: int
    prompts_per_part: int
    provenance: Provenance
    later: tuple[Provenance, ...] = ()
    """What was at work when the folder was continued, where that had changed: another device or
    version of a library gives values that differ in their last bits. The oldest first."""
    nonfinite: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Part -> site -> rows with a value that is not finite, where these were allowed."""

    @property
    def parts(self) -> int:
        return -(-self.prompts // self.prompts_per_part)

    @property
    def nonfinite_rows(self) -> dict[str, int]:
        """Site -> rows with a value that is not finite."""
        total: Counter[str] = Counter()
        for counts in self.nonfinite.values():
            total.update(counts)
        return dict(total)

    def continued(self, provenance: Provenance) -> "Manifest":
        """With what is at work now, if that has changed."""
        last = self.later[-1] if self.later else self.provenance
        if replace(provenance, created=last.created) == last:
            return self
        return replace(self, later=(*self.later, provenance))

    def with_nonfinite(self, part: int, site: Site, rows: int) -> "Manifest":
        """With the number of rows of a part at a site that hold a value that is not finite."""
        counts = {**self.nonfinite.get(str(part), {}), str(site): rows}
        counts = {name: count for name, count in counts.items() if count}
        noted = {**self.nonfinite, str(part): counts}
        return replace(self, nonfinite={name: one for name, one in noted.items() if one})

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        document = {
            "schema": SCHEMA,
            **asdict(self),
            "sites": [str(site) for site in self.sites],
        }
        with written_whole(path) as file:
            file.write(json.dumps(document, indent=1).encode())

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """The manifest in a file, or None if there is no file.

        Raises:
            ActivationError: it is damaged or has another schema.
        """
        try:
            found: Any = json.loads(path.read_text(encoding="utf-8"))
            _check_schema(path.parent, found.pop("schema", None))
            found["sites"] = tuple(Site.parse(site) for site in found["sites"])
            found["provenance"] = Provenance(**found["provenance"])
            found["later"] = tuple(Provenance(**one) for one in found.get("later", ()))
            return cls(**found)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SiteError) as error:
            raise ActivationError(
                f"{path} is damaged ({error}): delete the folder and extract again"
            ) from error


def _check_schema(folder: Path, schema: object) -> None:
    if schema != SCHEMA:
        raise ActivationError(
            f"{folder} was written with schema {schema}, this version reads {SCHEMA}: extract again"
            " into a new folder; nothing in this one was changed"
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete folder.

    Raises:
        ActivationError: there is none, so writing was cut short, or it is damaged or has another
            schema.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        raise ActivationError(
            f"{folder} holds no complete activations (no {MANIFEST}): run the same extraction"
            " again, which makes only what is missing"
        )
    return manifest


def read_activations(folder: Path, sites: Sequence[Site] | None = None) -> Activations:
    """Reads a folder of activations into memory, all sites of it or only those named.

    Raises:
        ActivationError: the folder is incomplete, damaged or of another schema, or lacks a site.
    """
    manifest = read_manifest(folder)
    wanted = manifest.sites if sites is None else tuple(sites)
    lacking = [str(site) for site in wanted if site not in manifest.sites]
    if lacking:
        raise ActivationError(f"{folder} does not hold {', '.join(lacking)}")
    prompts: list[Prompt] = []
    tokens: list[Tokens] = []
    blocks: dict[Site, list[Floats]] = {site: [] for site in wanted}
    for number in range(manifest.parts):
        part = read_prompt_part(folder, number)
        part_tokens = list(read_token_part(folder, number, part))
        counts = list(_rows_of(part_tokens, manifest.provenance))
        for site in wanted:
            blocks[site].append(read_site_part(folder, str(site), number, part, counts))
        prompts += part
        tokens += part_tokens
    if len(prompts) != manifest.prompts:
        raise damaged(folder / "prompts", f"{len(prompts)} of {manifest.prompts} prompts")
    arrays: dict[Site, Floats | list[Floats]] = {
        site: np.concatenate(blocks.pop(site)) for site in wanted
    }
    if manifest.provenance.pool == "none":
        ends = np.cumsum(list(_rows_of(tokens, manifest.provenance)))[:-1]
        arrays = {site: np.split(arrays[site], ends) for site in wanted}
    return Activations(PromptSet(tuple(prompts)), tuple(tokens), arrays, manifest.provenance)


def _rows_of(tokens: Sequence[Tokens], provenance: Provenance) -> Iterator[int]:
    """How many rows each prompt has at a site."""
    for one in tokens:
        if provenance.pool != "none":
            yield 1
        else:
            yield int(one.content.sum()) if provenance.tokens == "content" else len(one)
