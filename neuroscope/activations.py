"""Activations of prompts at sites of a model, as values that do not depend on the model."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import SiteError
from neuroscope.labels import model_label, short_repr
from neuroscope.prompts import PromptSet
from neuroscope.sites import LAYER_COMPONENTS, Site, parse_site
from neuroscope.tokens import TokenBlock

Floats = NDArray[np.float32]
Array_co = TypeVar("Array_co", bound=Floats | list[Floats], covariant=True)
"""Type of the values at one site: `Floats` if pooled, `list[Floats]` at token level."""


@dataclass(frozen=True)
class Provenance:
    """Settings and versions needed to compute the same activations again."""

    model: str
    architecture: str
    fingerprint: str  # SHA-256 of configuration, tokenizer and weights
    revision: str | None  # commit on the model hub
    attention: str  # attention implementation, "sdpa" or "eager"
    dtype: str
    device: str
    padding_side: str
    token_rule: str
    pool: str
    truncated: bool
    batch_tokens: int  # token budget per batch; the last bits of the values depend on it
    prompts_digest: str
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    created: str = ""  # ISO 8601, UTC
    warnings: tuple[str, ...] = ()  # about the values, from loading the model

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "Provenance":
        """Return the provenance from the values that `to_dict` returned, or from their JSON."""
        return cls(**{**entries, "warnings": tuple(entries.get("warnings", ()))})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that can be written as JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Activations(Generic[Array_co]):
    """Arrays of activations, one per site, with the prompts, their tokens and the provenance.

    >>> acts = ns.extract(model, ["The cat is on the mat"], sites="resid_post")
    >>> acts["resid_post.2"].shape   # (prompts, neurons)
    (1, 384)

    With `pool="none"`, each site has a list of one (tokens, neurons) array per prompt.
    """

    prompts: PromptSet
    tokens: TokenBlock  # a sequence: the tokens of each prompt
    arrays: Mapping[Site, Array_co]
    provenance: Provenance

    def __repr__(self) -> str:
        size = f"{len(self.prompts):,} prompts, {len(self.arrays)} sites"
        pool = f"pool {self.provenance.pool!r}"
        return short_repr(self, f"{size}, {pool}, model {model_label(self.provenance.model)!r}")

    def _repr_html_(self) -> str:
        """Return the sites with the shape and dtype of their values, for notebooks."""
        import pandas as pd

        rows = [(str(site), *_shape_and_dtype(values)) for site, values in self.arrays.items()]
        table = pd.DataFrame(rows, columns=["site", "shape", "dtype"])
        return f"<p>{escape(repr(self))}</p>{table.to_html(index=False)}"

    @property
    def sites(self) -> tuple[Site, ...]:
        """Recorded sites, in forward order."""
        return tuple(self.arrays)

    def __getitem__(self, site: str | Site) -> Array_co:
        """Return the values at one site; `final` and `logits` need no layer.

        Raises:
            SiteError: the site was not recorded, or its name is unknown or lacks a layer.
        """
        component, layer = parse_site(str(site))
        if layer is None and component in LAYER_COMPONENTS:
            raise SiteError(f"site '{site}' has no layer", remedy=f"write, for example, '{site}.0'")
        for recorded_site, values in self.arrays.items():
            if recorded_site.component == component and layer in (None, recorded_site.layer):
                return values
        available = ", ".join(map(str, self.arrays))
        raise SiteError(f"site {site} was not recorded", remedy=f"choose from {available}")

    def __iter__(self) -> Iterator[Site]:
        return iter(self.arrays)


def _shape_and_dtype(values: Floats | list[Floats]) -> tuple[str, str]:
    """Return the shape and dtype of the values at one site, as texts."""
    if isinstance(values, np.ndarray):
        return str(values.shape), str(values.dtype)
    tokens = sum(map(len, values))
    shape = f"{len(values):,} arrays (tokens, {values[0].shape[1]}), {tokens:,} tokens"
    return shape, str(values[0].dtype)
