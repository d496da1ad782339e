"""The key of stored activations: everything that decides their values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from neuroscope.options import (
    Attention,
    Dtype,
    PaddingSide,
    Pool,
    TokenRule,
    check_choice,
    choices,
)
from neuroscope.sites import Site

SCHEMA = 6
"""Version of the files' layout; folders of another one are refused."""


@dataclass(frozen=True)
class Composition:
    """How prompts are grouped into batches and padded, where a study varies it.

    >>> Composition(batch_tokens=2048, shuffle=3, padding_side="left")

    The last bits of a value depend on it (in bfloat16, up to one part in a hundred).

    Raises:
        NeuroscopeError: the padding side is unknown.
    """

    batch_tokens: int
    """Tokens per batch, padding included."""
    shuffle: int | None = None
    """Seed by which prompts are grouped at random; None groups prompts of similar length."""
    padding_side: PaddingSide = "right"

    def __post_init__(self) -> None:
        check_choice("padding_side", self.padding_side, choices(PaddingSide))

    def __str__(self) -> str:
        order = "by length" if self.shuffle is None else f"at random (seed {self.shuffle})"
        return f"{self.batch_tokens} tokens per batch, grouped {order}, padded {self.padding_side}"


@dataclass(frozen=True)
class ActivationKey:
    """Everything that decides the values of activations.

    Batch composition is part of it only where a study varies it: `composition` is None otherwise,
    and does not enter the digest then.
    """

    fingerprint: str
    """SHA-256 of the model's files."""
    prompts_digest: str
    sites: tuple[Site, ...]
    pool: Pool
    token_rule: TokenRule
    truncated: bool
    dtype: Dtype
    attention: Attention
    composition: Composition | None = None

    @cached_property
    def digest(self) -> str:
        """The key in 32 hexadecimal digits, the same on every machine."""
        return hashlib.sha256(json.dumps([self.to_dict(), SCHEMA]).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Return the key as JSON values."""
        entries = {**asdict(self), "sites": [str(site) for site in self.sites]}
        if self.composition is None:
            del entries["composition"]
        return entries

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "ActivationKey":
        """Return the key that `to_dict` gave.

        Raises:
            TypeError, KeyError, SiteError: an entry is missing, unknown or of another type.
        """
        composition = entries.get("composition")
        values = {
            **entries,
            "sites": tuple(Site.parse(site) for site in entries["sites"]),
            "composition": Composition(**composition) if composition else None,
        }
        return cls(**values)

    def differences(self, other: "ActivationKey") -> list[str]:
        """Name each entry in which this key differs from another, with this key's value."""
        texts = {
            "fingerprint": "another model",
            "prompts_digest": "other prompts",
            "sites": f"sites {', '.join(map(str, self.sites))}",
            "composition": f"batches of {self.composition}"
            if self.composition
            else "batches of no fixed composition",
        }
        return [
            texts.get(entry.name, f"{entry.name} {getattr(self, entry.name)}")
            for entry in fields(self)
            if getattr(self, entry.name) != getattr(other, entry.name)
        ]
