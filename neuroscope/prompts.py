"""Prompts, sets of prompts, and templates of prompts."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import Protocol

from neuroscope.errors import PromptError
from neuroscope.labels import short_repr, shortened

_EXCERPT = 60  # characters


@dataclass(frozen=True)
class Prompt:
    """Text that is given to a model, with its id and labels.

    >>> Prompt("17", "Stocks fell on Monday.", {"topic": "business"})
    """

    id: str
    text: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    position: str = field(default="", compare=False, repr=False)
    """Position in a file or list, such as `line 3` or `number 3`; may be empty."""

    def __str__(self) -> str:
        """Return the start of the text, the id and the position, for messages.

        An id that is only a number is omitted: prompts without one are numbered.

        >>> str(Prompt("news-17", "Stocks fell on Monday."))
        "prompt 'Stocks fell on Monday.' (id 'news-17')"
        """
        line = " ".join(self.text.split())
        text = repr(shortened(line, _EXCERPT))
        id = "" if self.id.isdigit() else f"id {self.id!r}"
        details = ", ".join(filter(None, (id, self.position)))
        return f"prompt {text} ({details})" if details else f"prompt {text}"


@dataclass(frozen=True)
class PromptPair:
    """Two prompts that differ in a few words, with the labels of the pair.

    >>> PromptPair("17", "He is a nurse.", "She is a nurse.", {"topic": "gender"})
    """

    id: str
    a: str
    b: str
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    position: str = field(default="", compare=False, repr=False)
    """Position in a file, such as `line 3`; may be empty."""

    @property
    def prompts(self) -> tuple[Prompt, Prompt]:
        """Both prompts, which have the id of the pair."""
        first = Prompt(self.id, self.a, self.labels, self.position)
        return first, replace(first, text=self.b)


class Prompts(Protocol):
    """Prompts in a fixed order, with distinct ids: in memory, or in a file of any length."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Prompt]:
        """Iterate over the prompts from the first; this can be repeated any number of times."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        ...

    @property
    def characters(self) -> int:
        """Number of characters of all texts together."""
        ...


@dataclass(frozen=True)
class PromptSet:
    """Prompts in a fixed order, with distinct ids, in memory.

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
            raise PromptError("no prompts were given", remedy="give at least one")
        check = PromptCheck()
        for prompt in self.prompts:
            check(prompt)

    def __repr__(self) -> str:
        texts = ", ".join(repr(shortened(prompt.text, _EXCERPT)) for prompt in self.prompts[:3])
        return short_repr(self, f"{len(self):,} prompts: {texts}{', …' * (len(self) > 3)}")

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @classmethod
    def of(cls, prompts: "Prompts | Iterable[str]") -> "PromptSet":
        """Return a set of prompts from texts, whose ids are their indices, or from other prompts.

        Raises:
            PromptError: an item is neither a text nor a prompt, or a prompt is invalid.
        """
        if isinstance(prompts, PromptSet):
            return prompts
        if isinstance(prompts, str | PathLike):
            raise PromptError(
                f"prompts must be a list of texts, not '{prompts}'",
                remedy="write [text], or PromptFile.open(path) for the prompts of a file",
            )
        return cls(tuple(_prompt(index, item) for index, item in enumerate(prompts)))

    @property
    def texts(self) -> list[str]:
        """Texts of the prompts, in order."""
        return [prompt.text for prompt in self.prompts]

    @property
    def ids(self) -> list[str]:
        """Ids of the prompts, in order."""
        return [prompt.id for prompt in self.prompts]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over ids, texts and labels, in order."""
        return digest_of(self.prompts)

    @property
    def characters(self) -> int:
        """Number of characters of all texts together."""
        return sum(len(prompt.text) for prompt in self.prompts)


def _prompt(index: int, item: object) -> Prompt:
    if isinstance(item, Prompt):
        return item
    if isinstance(item, str):
        return Prompt(str(index), item, position=f"number {index + 1}")
    raise PromptError(f"prompt {index} is {item!r}, not text", remedy="give a text or a Prompt")


class PromptCheck:
    """Check of the prompts of a set, which is called with each in turn.

    >>> check = PromptCheck()
    >>> for prompt in prompts: check(prompt)
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def __call__(self, prompt: Prompt) -> None:
        """Check one prompt.

        Raises:
            PromptError: the prompt is blank, is not text, or has the id of an earlier one.
        """
        if fault := self._fault(prompt):
            problem, remedy = fault
            position = prompt.position or f"number {len(self._ids) + 1}"
            raise PromptError(f"{replace(prompt, position=position)} {problem}", remedy=remedy)
        self._ids.add(prompt.id)

    def _fault(self, prompt: Prompt) -> tuple[str, str] | None:
        """Return what is wrong with a prompt, and what to do about it."""
        if not prompt.text.strip():
            return "is blank", "give it text or omit it"
        for text in (prompt.id, prompt.text, *prompt.labels, *prompt.labels.values()):
            if fault := _unicode_fault(str(text)):
                return f"contains {fault}", "fix the source of the text"
        if prompt.id in self._ids:
            remedy = "give each its own id; prompts without one are numbered from 0"
            return f"has the id {prompt.id!r} of an earlier prompt", remedy
        return None


def _unicode_fault(text: str) -> str:
    """Return what makes a text unusable; empty if nothing does."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a lone surrogate, which is invalid Unicode"
    return ""


def digest_of(prompts: Iterable[Prompt]) -> str:
    """Return the SHA-256 over ids, texts and labels, in order."""
    total = hashlib.sha256()
    for prompt in prompts:
        total.update(_digested(prompt))
    return total.hexdigest()


def verified(prompts: Iterable[Prompt], digest: str, source: str) -> Iterator[Prompt]:
    """Yield prompts; raise PromptError after the last one unless their digest is the given one.

    Args:
        prompts: prompts that are read again.
        digest: their digest when they were first read, see `digest_of`.
        source: where they are read from, for the message.
    """
    total = hashlib.sha256()
    for prompt in prompts:
        total.update(_digested(prompt))
        yield prompt
    if total.hexdigest() != digest:
        raise PromptError(
            f"{source} has changed since it was first read",
            remedy="run it again, and do not edit the prompts meanwhile",
        )


def _digested(prompt: Prompt) -> bytes:
    """Return what a prompt contributes to a digest."""
    row = [prompt.id, prompt.text, dict(prompt.labels)]
    return json.dumps(row, sort_keys=True).encode() + b"\n"


def fill_template(template: str, fills: Sequence[str]) -> list[str]:
    """Return the template's text once per fill, with the fill in place of `{}`.

    >>> fill_template("The {} is on the mat", ["cat", "dog"])
    ['The cat is on the mat', 'The dog is on the mat']

    Raises:
        PromptError: the template does not contain `{}` exactly once, or there are no fills.
    """
    if template.count("{}") != 1:
        raise PromptError(
            f"template '{template}' must contain '{{}}' exactly once, where texts are inserted",
            remedy="write, for example, 'The {} is on the mat'",
        )
    if not fills:
        raise PromptError(
            f"template '{template}' has no fills", remedy="give at least two words for '{}'"
        )
    for fill in fills:
        if not fill.strip():
            raise PromptError(f"a fill of template '{template}' is blank", remedy="give it text")
    return [template.replace("{}", fill) for fill in fills]
