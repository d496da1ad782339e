"""Activations of prompts at sites of a model, as values: they never hold a model."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import NeuroscopeError, SiteError
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.tokens import TokenBlock

Floats = NDArray[np.float32]
POOLS = ("mean", "max", "last", "first", "none")
"""How a prompt's tokens become one row; `none` keeps every token."""
TOKEN_RULES = ("content", "all")
"""Which tokens count: without special tokens, or with them; padding never counts."""


def check_pooling(pool: str, token_rule: str) -> None:
    """Raises NeuroscopeError unless both names are known ones."""
    for option, value, known in (("pool", pool, POOLS), ("token rule", token_rule, TOKEN_RULES)):
        if value not in known:
            raise NeuroscopeError(f"unknown {option} '{value}': it is one of {', '.join(known)}")


@dataclass(frozen=True)
class Provenance:
    """What must be known to get the same activations again."""

    model: str
    architecture: str
    fingerprint: str  # SHA-256 over configuration, tokenizer and weights
    revision: str | None  # commit on the model hub
    attention: str  # implementation of attention, "sdpa" or "eager"
    dtype: str
    device: str
    padding_side: str
    token_rule: str
    pool: str
    truncated: bool
    batch_tokens: int  # how many a batch held at most, on which the last bits depend
    prompts_digest: str
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    created: str = ""  # ISO 8601, UTC

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Activations:
    """One array for each site, with its prompts, their tokens and the provenance.

    >>> acts = ns.extract(model, ["The cat is on the mat"], sites="resid_post")
    >>> acts["resid_post.2"].shape   # (prompts, neurons)
    (1, 384)

    With `pool="none"` a site gives a list with one (tokens, neurons) array for each prompt.
    """

    prompts: PromptSet
    tokens: TokenBlock  # a sequence with the tokens of each prompt
    arrays: Mapping[Site, Floats | list[Floats]]
    provenance: Provenance

    def __repr__(self) -> str:
        made = self.provenance
        held = f"{len(self.prompts):,} prompts, {len(self.arrays)} sites"
        return f"Activations({held}, model {made.model!r}, pool {made.pool!r})"

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.arrays)

    def __getitem__(self, site: str | Site) -> Any:  # Floats, or list[Floats] at token level
        site = Site.parse(site) if isinstance(site, str) else site
        if site not in self.arrays:
            recorded = ", ".join(map(str, self.arrays))
            raise SiteError(f"{site} was not recorded; recorded are {recorded}")
        return self.arrays[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.arrays)
