"""Prompts, sets of prompts, and templates of them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Protocol

from neuroscope.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """One text given to a model; `labels` are what is known about it (topic=politics)."""

    id: str
    text: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


class Prompts(Protocol):
    """Prompts in a fixed order, with distinct ids: in memory, or in a file of any length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Prompt]:
        """Goes through them from the first, as often as asked."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        ...

    @property
    def characters(self) -> int:
        """Of all texts together."""
        ...


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order, with distinct ids.

    >>> prompts = PromptSet.of(["The cat is on the mat", "The dog is on the mat"])
    >>> [prompt.id for prompt in prompts]
    ['0', '1']
    >>> prompts.digest[:8]
    '277dc9da'

    Raises:
        PromptError: there is no prompt, one is blank, or two share an id.
    """

    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptError("no prompts were given: name at least one")
        for _ in checked(self.prompts):
            pass

    def __repr__(self) -> str:
        texts = ", ".join(repr(prompt.text) for prompt in self.prompts[:3])
        more = f", ... {len(self):,} in all" if len(self) > 3 else ""
        return f"PromptSet({texts}{more})"

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @classmethod
    def of(cls, prompts: "Prompts | Iterable[str]") -> "PromptSet":
        """A set from texts, whose ids are their positions, or from any other prompts.

        Raises:
            PromptError: what is given is neither.
        """
        if isinstance(prompts, PromptSet):
            return prompts
        if isinstance(prompts, str | PathLike):
            raise PromptError(
                f"prompts must be a list of texts, not '{prompts}': write [text], or"
                " PromptFile.open(path) for the prompts of a file"
            )
        return cls(tuple(_prompt(index, one) for index, one in enumerate(prompts)))

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def ids(self) -> list[str]:
        return [prompt.id for prompt in self.prompts]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        return digest_of(self.prompts)

    @property
    def characters(self) -> int:
        """Of all texts together."""
        return sum(len(prompt.text) for prompt in self.prompts)


def _prompt(index: int, given: object) -> Prompt:
    if isinstance(given, Prompt):
        return given
    if isinstance(given, str):
        return Prompt(str(index), given)
    raise PromptError(f"prompt {index} is {given!r}: it must be a text")


def checked(prompts: Iterable[Prompt]) -> Iterator[Prompt]:
    """The prompts as they come.

    Raises:
        PromptError: on the way, where one is blank, is no text, or has an id that was there before.
    """
    ids: set[str] = set()
    for number, prompt in enumerate(prompts, 1):
        if not prompt.text.strip():
            raise PromptError(
                f"prompt '{prompt.id}' (number {number}) is blank: give it text or leave it out"
            )
        if _is_broken(prompt.id) or _is_broken(prompt.text):
            raise PromptError(
                f"prompt {prompt.id!r} (number {number}) holds half a character (a lone surrogate),"
                " which is no text: mend it"
            )
        if prompt.id in ids:
            raise PromptError(
                f"two prompts share the id '{prompt.id}' (the second is number {number}): ids must"
                " be distinct, and one without gets its place, from 0"
            )
        ids.add(prompt.id)
        yield prompt


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def digest_of(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over ids, texts and labels, in order."""
    total = hashlib.sha256()
    for prompt in prompts:
        row = [prompt.id, prompt.text, dict(prompt.labels)]
        total.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def fill_template(template: str, fills: Sequence[str]) -> list[str]:
    """The template's text once for each fill, put where `{}` stands.

    Raises:
        PromptError: the template has not exactly one `{}`, or there are no fills.
    """
    if template.count("{}") != 1:
        raise PromptError(
            f"template '{template}' must hold '{{}}' exactly once, where the fills go,"
            " as in 'The engineer is a {}.'"
        )
    if not fills:
        raise PromptError(f"template '{template}' has no fills: give at least two words for '{{}}'")
    for fill in fills:
        if not fill.strip():
            raise PromptError(f"a fill of template '{template}' is blank: give it text")
    return [template.replace("{}", fill) for fill in fills]
