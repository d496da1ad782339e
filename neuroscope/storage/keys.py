"""Keys of stored activations: everything that determines their values."""

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

SCHEMA = 7
"""Version of the files and of how values are computed; folders with another version are refused."""


@dataclass(frozen=True)
class Composition:
    """Composition of batches, where a study varies it: grouping and padding of the prompts.

    >>> Composition(batch_tokens=2048, shuffle=3, padding_side="left")

    The last bits of a value depend on it (in bfloat16, up to 1 % of the value).

    Raises:
        NeuroscopeError: the padding side is unknown.
    """

    batch_tokens: int
    """Limit of tokens per batch, padding included."""
    shuffle: int | None = None
    """Seed for grouping prompts of similar length at random; None groups them by length."""
    padding_side: PaddingSide = "right"
    """Side on which prompts are padded."""

    def __post_init__(self) -> None:
        check_choice("padding_side", self.padding_side, choices(PaddingSide))

    def __str__(self) -> str:
        order = "by length"
        if self.shuffle is not None:
            order = f"at random by similar length (seed {self.shuffle})"
        return f"{self.batch_tokens} tokens per batch, grouped {order}, padded {self.padding_side}"


@dataclass(frozen=True)
class ActivationKey:
    """Everything that determines the values of activations.

    The composition of batches is part of the key only where a study varies it. Otherwise
    `composition` is None and is left out of the digest.
    """

    fingerprint: str
    """SHA-256 of the model's files."""
    prompts_digest: str
    """SHA-256 of the prompts' ids, texts and labels."""
    sites: tuple[Site, ...]
    """Sites of the activations."""
    pool: Pool
    """Way of pooling a prompt's tokens into one row."""
    token_rule: TokenRule
    """Rule on which tokens count."""
    truncated: bool
    """Whether prompts were cut at the model's limit."""
    dtype: Dtype
    """Number format of the forward pass."""
    attention: Attention
    """Implementation of attention."""
    composition: Composition | None = None
    """Composition of batches, where a study varies it."""

    @cached_property
    def digest(self) -> str:
        """Hash of the key in 32 hexadecimal digits, the same on every machine."""
        return hashlib.sha256(json.dumps([self.to_dict(), SCHEMA]).encode()).hexdigest()[:32]

    def to_dict(self) -> dict[str, Any]:
        """Return the key as JSON values."""
        entries = {**asdict(self), "sites": [str(site) for site in self.sites]}
        if self.composition is None:
            del entries["composition"]
        return entries

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> "ActivationKey":
        """Return the key from the values that `to_dict` returned.

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
        """Describe each entry that differs from another key, with the value in this key."""
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
